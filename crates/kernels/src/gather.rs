//! Experts: which rows of activations meet which of several weight matrices that lie one after the other.

use crate::rows::{Rows, RowsMut};

/// Which rows of activations meet which expert.
#[derive(Clone, Copy, Debug)]
pub struct Gather<'a> {
    /// The expert of each output row. Equal ones that follow each other share the reading of weights: sort them.
    pub experts: &'a [u32],
    /// The row of `x` for each output row; none where they are the same.
    pub rows: Option<&'a [u32]>,
    /// How many experts the weights are made of.
    pub count: usize,
}

impl Gather<'_> {
    /// Panics on numbers out of range (products read through pointers); gives the columns of the output.
    pub(crate) fn check(&self, x: &Rows<'_>, weights: (usize, usize), y: &RowsMut<'_>) -> usize {
        let (weight_rows, columns) = weights;
        let outputs = weight_rows / self.count.max(1);
        assert_eq!(
            weight_rows,
            outputs * self.count,
            "{weight_rows} rows of {} experts",
            self.count
        );
        assert_eq!((columns, outputs), (x.columns, y.columns), "columns of x and y");
        assert_eq!(self.experts.len(), y.rows, "an expert for each row of y");
        assert!(self.experts.iter().all(|&e| (e as usize) < self.count), "an expert past the last");
        match self.rows {
            Some(rows) => {
                assert_eq!(rows.len(), y.rows, "a row of x for each row of y");
                assert!(
                    rows.iter().all(|&row| (row as usize) < x.rows),
                    "a row of x past the last"
                );
            }
            None => assert_eq!(x.rows, y.rows, "rows of x and y"),
        }
        outputs
    }

    /// Calls `f(expert, first row, rows)` for each stretch of equal experts.
    pub(crate) fn runs(&self, mut f: impl FnMut(usize, usize, usize)) {
        let mut first = 0;
        for run in self.experts.chunk_by(|a, b| a == b) {
            f(run[0] as usize, first, run.len());
            first += run.len();
        }
    }
}
