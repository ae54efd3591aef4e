use mlx::{Array, Dtype};

use crate::nn::{Linear, Quantised};

/// A table `[rows, width]`, dense or quantised.
pub struct Embedding {
    table: Table,
    /// Of what it gives, where that is not 1.
    scale: Option<f32>,
    rows: i32,
    width: i32,
}

enum Table {
    Dense(Array),
    Quantised { table: Quantised, dtype: Dtype },
}

impl Embedding {
    pub fn dense(table: Array) -> Embedding {
        let (rows, width) = (table.dim(0), table.dim(1));
        Embedding { table: Table::Dense(table), scale: None, rows, width }
    }

    /// `dtype` is what its rows are computed in.
    pub fn quantised(table: Quantised, dtype: Dtype) -> Embedding {
        let (rows, width) = (table.weight.dim(0), table.scales.dim(1) * table.scheme.group_size);
        Embedding { table: Table::Quantised { table, dtype }, scale: None, rows, width }
    }

    /// The same table, whose rows come multiplied by `factor`.
    pub fn scaled(self, factor: f32) -> Embedding {
        Embedding { scale: Some(factor), ..self }
    }

    pub fn rows(&self) -> i32 {
        self.rows
    }

    pub fn width(&self) -> i32 {
        self.width
    }

    /// What its rows are computed in.
    pub fn dtype(&self) -> Dtype {
        match &self.table {
            Table::Dense(table) => table.dtype(),
            Table::Quantised { dtype, .. } => *dtype,
        }
    }

    /// `[n]` indices → `[n, width]`.
    pub fn forward(&self, indices: &Array) -> Array {
        let rows = match &self.table {
            Table::Dense(table) => table.take(indices, 0),
            Table::Quantised { table, dtype } => table.rows(indices, *dtype),
        };
        self.scale.map_or_else(|| rows.clone(), |factor| mlx::fast::scaled(&rows, factor))
    }

    /// The same table as an output head, without its scale: `[n, width]` → `[n, rows]`.
    pub fn as_linear(&self) -> Linear {
        match &self.table {
            Table::Dense(table) => Linear::dense(table, None),
            Table::Quantised { table, .. } => Linear::quantised(table.clone(), None),
        }
    }
}
