//! A quantised matrix: which kind it is, and its parts with their lengths checked.

use super::scales::Scales;
use crate::element::Floats;

/// The kinds of quantisation MLX has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `scale * code + bias`; 2, 3, 4, 5, 6 or 8 bits, groups of 32, 64 or 128.
    Affine { bits: usize, group: usize },
    /// 4-bit floats, groups of 32 with a power of two.
    Mxfp4,
    /// 8-bit floats, groups of 32 with a power of two.
    Mxfp8,
    /// 4-bit floats, groups of 16 with an 8-bit float.
    Nvfp4,
}

impl Kind {
    pub fn bits(self) -> usize {
        match self {
            Kind::Affine { bits, .. } => bits,
            Kind::Mxfp4 | Kind::Nvfp4 => 4,
            Kind::Mxfp8 => 8,
        }
    }

    /// Columns to a scale.
    pub fn group(self) -> usize {
        match self {
            Kind::Affine { group, .. } => group,
            Kind::Mxfp4 | Kind::Mxfp8 => 32,
            Kind::Nvfp4 => 16,
        }
    }

    fn valid(self) -> bool {
        match self {
            Kind::Affine { bits, group } => {
                matches!(bits, 2..=6 | 8) && matches!(group, 32 | 64 | 128)
            }
            _ => true,
        }
    }
}

/// `rows` by `columns` of weights (all experts' rows in turn, where there are several).
#[derive(Clone, Copy, Debug)]
pub struct QuantizedMatrix<'a> {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) codes: &'a [u8],
    pub(crate) scales: Scales<'a>,
    pub(crate) biases: Option<Floats<'a>>,
    /// Multiplies every scale.
    pub(crate) factor: f32,
    /// Multiply the scales of as many equal parts of the rows; empty where there are none.
    pub(crate) factors: &'a [f32],
}

impl<'a> QuantizedMatrix<'a> {
    /// `codes` is the packed array's memory; `scales` and `biases` are `[rows, columns / group]`.
    ///
    /// Panics when lengths do not fit the shape: products read through pointers.
    pub fn affine(
        bits: usize,
        group: usize,
        (rows, columns): (usize, usize),
        codes: &'a [u8],
        scales: Floats<'a>,
        biases: Floats<'a>,
    ) -> QuantizedMatrix<'a> {
        let kind = Kind::Affine { bits, group };
        assert_eq!(scales.len(), biases.len(), "as many biases as scales");
        let scales = Scales::Floats(scales);
        QuantizedMatrix {
            kind,
            rows,
            columns,
            codes,
            scales,
            biases: Some(biases),
            factor: 1.0,
            factors: &[],
        }
        .checked()
    }

    /// One of the float kinds. `global_scale` is nvfp4's, as MLX stores it.
    pub fn floats(
        kind: Kind,
        (rows, columns): (usize, usize),
        codes: &'a [u8],
        scales: &'a [u8],
        global_scale: Option<f32>,
    ) -> QuantizedMatrix<'a> {
        assert!(!matches!(kind, Kind::Affine { .. }), "affine weights have biases");
        // MLX keeps the largest magnitude; 448 and 6 are the largest of the two float types.
        let factor = global_scale.map_or(1.0, |scale| scale / (448.0 * 6.0));
        let scales = if kind == Kind::Nvfp4 { Scales::E4m3(scales) } else { Scales::E8m0(scales) };
        QuantizedMatrix { kind, rows, columns, codes, scales, biases: None, factor, factors: &[] }
            .checked()
    }

    /// A factor for each of several equal parts of the rows: experts that were quantised each by itself. Biases are
    /// not multiplied, so this is for kinds without; for experts only, whose products keep to one part.
    pub fn with_factors(self, factors: &'a [f32]) -> QuantizedMatrix<'a> {
        let fits = matches!(self.kind, Kind::Mxfp4 | Kind::Nvfp4) || factors.is_empty();
        assert!(fits, "factors of {:?}", self.kind);
        let parts = factors.len().max(1);
        assert_eq!(self.rows % parts, 0, "{} rows in {parts} parts", self.rows);
        QuantizedMatrix { factors, ..self }
    }

    /// What multiplies the scales of a row, and of those of its part.
    pub(crate) fn factor(&self, row: usize) -> f32 {
        match self.factors.len() {
            0 => self.factor,
            parts => self.factor * self.factors[row / (self.rows / parts)],
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.columns * self.kind.bits() / 8
    }

    pub(crate) fn groups(&self) -> usize {
        self.columns / self.kind.group()
    }

    fn checked(self) -> QuantizedMatrix<'a> {
        assert!(self.kind.valid(), "no quantisation {:?}", self.kind);
        let (rows, columns, group) = (self.rows, self.columns, self.kind.group());
        assert!(columns % group == 0, "{columns} columns in groups of {group}");
        assert_eq!(self.codes.len(), rows * self.row_bytes(), "bytes of {rows} by {columns} codes");
        assert_eq!(self.scales.len(), rows * self.groups(), "scales of {rows} by {columns}");
        self
    }
}
