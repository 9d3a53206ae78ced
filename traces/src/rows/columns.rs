//! Rows into polars columns, and back.

use std::path::PathBuf;

use polars::prelude::{
    BooleanChunked, BooleanChunkedBuilder, ChunkedBuilder, Column, DataFrame, DataType, Float32Type,
    IntoColumn, ListBuilderTrait, ListPrimitiveChunkedBuilder, PrimitiveChunkedBuilder, StringChunkedBuilder,
    UInt32Type, UInt64Type,
};

use crate::error::TraceError;
use crate::part::data_type;
use crate::schema::{Kind, Table};

/// Rows of a table that wait to be a row group. Cells come row by row, in the schema's order.
pub(crate) struct Cells {
    table: Table,
    builders: Vec<Builder>,
    next: usize,
    rows: usize,
}

enum Builder {
    U32(PrimitiveChunkedBuilder<UInt32Type>),
    U64(PrimitiveChunkedBuilder<UInt64Type>),
    F32(PrimitiveChunkedBuilder<Float32Type>),
    Bool(BooleanChunkedBuilder),
    Text(StringChunkedBuilder),
    U32s(ListPrimitiveChunkedBuilder<UInt32Type>),
    F32s(ListPrimitiveChunkedBuilder<Float32Type>),
}

impl Builder {
    fn new(name: &'static str, kind: Kind, capacity: usize) -> Self {
        let name = name.into();
        match kind {
            Kind::U32 => Self::U32(PrimitiveChunkedBuilder::new(name, capacity)),
            Kind::U64 => Self::U64(PrimitiveChunkedBuilder::new(name, capacity)),
            Kind::F32 => Self::F32(PrimitiveChunkedBuilder::new(name, capacity)),
            Kind::Bool => Self::Bool(BooleanChunkedBuilder::new(name, capacity)),
            Kind::Text => Self::Text(StringChunkedBuilder::new(name, capacity)),
            Kind::U32s => {
                Self::U32s(ListPrimitiveChunkedBuilder::new(name, capacity, 8 * capacity, DataType::UInt32))
            }
            Kind::F32s => {
                Self::F32s(ListPrimitiveChunkedBuilder::new(name, capacity, 8 * capacity, DataType::Float32))
            }
        }
    }

    fn finish(self) -> Column {
        match self {
            Self::U32(b) => b.finish().into_column(),
            Self::U64(b) => b.finish().into_column(),
            Self::F32(b) => b.finish().into_column(),
            Self::Bool(b) => b.finish().into_column(),
            Self::Text(b) => b.finish().into_column(),
            Self::U32s(mut b) => b.finish().into_column(),
            Self::F32s(mut b) => b.finish().into_column(),
        }
    }
}

/// Defines how one kind of cell is put.
macro_rules! put {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $type:ty, |$builder:ident, $value:ident| $put:expr) => {
        $(#[$doc])*
        pub(crate) fn $name(&mut self, $value: $type) {
            match self.next() {
                Builder::$variant($builder) => $put,
                _ => unreachable!("rows and schema agree on the order of columns"),
            }
        }
    };
}

impl Cells {
    /// No rows yet, room for `capacity`.
    pub(crate) fn new(table: Table, capacity: usize) -> Self {
        let builders = table.columns().iter().map(|c| Builder::new(c.name, c.kind, capacity)).collect();
        Self { table, builders, next: 0, rows: 0 }
    }

    /// Whole rows that wait.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The rows as a frame; `self` is empty afterwards.
    pub(crate) fn take(&mut self) -> DataFrame {
        let full = std::mem::replace(self, Self::new(self.table, self.rows));
        let columns = full.builders.into_iter().map(Builder::finish).collect();
        DataFrame::new(full.rows, columns).expect("every row has every column, and no name comes twice")
    }

    fn next(&mut self) -> &mut Builder {
        let at = self.next;
        self.next += 1;
        if self.next == self.builders.len() {
            self.next = 0;
            self.rows += 1;
        }
        &mut self.builders[at]
    }

    put!(
        /// A `u32` cell.
        u32, U32, u32, |b, value| b.append_value(value)
    );
    put!(
        /// A `u64` cell.
        u64, U64, u64, |b, value| b.append_value(value)
    );
    put!(
        /// A `u64` cell that may be null.
        u64_or_null, U64, Option<u64>, |b, value| b.append_option(value)
    );
    put!(
        /// An `f32` cell that may be null.
        f32_or_null, F32, Option<f32>, |b, value| b.append_option(value)
    );
    put!(
        /// A `bool` cell that may be null.
        bool_or_null, Bool, Option<bool>, |b, value| b.append_option(value)
    );
    put!(
        /// A text cell.
        text, Text, &str, |b, value| b.append_value(value)
    );
    put!(
        /// An `f32` cell.
        f32, F32, f32, |b, value| b.append_value(value)
    );
    put!(
        /// A `u32` cell that may be null.
        u32_or_null, U32, Option<u32>, |b, value| b.append_option(value)
    );
    put!(
        /// A list of `u32`, or null.
        u32s_or_null, U32s, Option<&[u32]>, |b, values| b.append_opt_slice(values)
    );
    put!(
        /// A list of `u32` whose elements may be null.
        u32_options, U32s, &[Option<u32>], |b, values| b.append_iter(values.iter().copied())
    );
    put!(
        /// A list of `f32`.
        f32s, F32s, &[f32], |b, values| b.append_slice(values)
    );
    put!(
        /// A list of `f32` whose elements may be null.
        f32_options, F32s, &[Option<f32>], |b, values| b.append_iter(values.iter().copied())
    );
}

/// Rows as they were read, with the file they are from.
pub(crate) struct Frame {
    /// The table's file.
    pub(crate) path: PathBuf,
    /// Its rows.
    pub(crate) frame: DataFrame,
}

/// A column of lists, its elements one after the other.
pub(crate) struct Lists<T> {
    values: Vec<Option<T>>,
    /// Where each row's elements end; `None` where the row is null.
    ends: Vec<(usize, bool)>,
}

impl<T: Copy> Lists<T> {
    /// A row's elements; `None` where it is null.
    pub(crate) fn row(&self, row: usize) -> Option<&[Option<T>]> {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, null) = self.ends[row];
        (!null).then(|| &self.values[start..end])
    }
}

/// Defines how a column of lists is read.
macro_rules! get_lists {
    ($(#[$doc:meta])* $name:ident, $method:ident, $kind:expr, $type:ty) => {
        $(#[$doc])*
        pub(crate) fn $name(&self, name: &'static str) -> Result<Lists<$type>, TraceError> {
            let bad = |source| TraceError::Read { path: self.path.clone(), source };
            let column = self.column(name, $kind)?.list().map_err(bad)?;
            let mut lists = Lists { values: Vec::new(), ends: Vec::with_capacity(column.len()) };
            for row in column.amortized_iter() {
                match &row {
                    Some(row) => lists.values.extend(row.as_ref().$method().map_err(bad)?.iter()),
                    None => {}
                }
                lists.ends.push((lists.values.len(), row.is_none()));
            }
            Ok(lists)
        }
    };
}

/// Defines how a column of one kind is read, null where a cell is.
macro_rules! get {
    ($(#[$doc:meta])* $name:ident, $method:ident, $kind:expr, $type:ty) => {
        $(#[$doc])*
        pub(crate) fn $name(&self, name: &'static str) -> Result<Vec<Option<$type>>, TraceError> {
            let column = self.column(name, $kind)?;
            let cells = column.$method().map_err(|source| TraceError::Read { path: self.path.clone(), source })?;
            Ok(cells.iter().collect())
        }
    };
}

impl Frame {
    /// Number of rows.
    pub(crate) fn height(&self) -> usize {
        self.frame.height()
    }

    get!(
        /// A `u64` column.
        u64s_or_null, u64, Kind::U64, u64
    );
    get!(
        /// An `f32` column.
        f32s_or_null, f32, Kind::F32, f32
    );
    get!(
        /// A `u32` column.
        u32s_or_null, u32, Kind::U32, u32
    );
    get_lists!(
        /// A column of lists of `u32`.
        lists_of_u32, u32, Kind::U32s, u32
    );
    get_lists!(
        /// A column of lists of `f32`.
        lists_of_f32, f32, Kind::F32s, f32
    );

    /// A `bool` column.
    pub(crate) fn bools_or_null(&self, name: &'static str) -> Result<Vec<Option<bool>>, TraceError> {
        let cells: &BooleanChunked = self
            .column(name, Kind::Bool)?
            .bool()
            .map_err(|source| TraceError::Read { path: self.path.clone(), source })?;
        Ok(cells.iter().collect())
    }

    /// A `u32` column without nulls.
    pub(crate) fn u32s(&self, name: &'static str) -> Result<Vec<u32>, TraceError> {
        self.whole(name, "a u32", self.u32s_or_null(name)?)
    }

    /// A `u64` column without nulls.
    pub(crate) fn u64s(&self, name: &'static str) -> Result<Vec<u64>, TraceError> {
        self.whole(name, "a u64", self.u64s_or_null(name)?)
    }

    /// An `f32` column without nulls.
    pub(crate) fn f32s(&self, name: &'static str) -> Result<Vec<f32>, TraceError> {
        self.whole(name, "an f32", self.f32s_or_null(name)?)
    }

    /// A `bool` column without nulls.
    pub(crate) fn bools(&self, name: &'static str) -> Result<Vec<bool>, TraceError> {
        self.whole(name, "true or false", self.bools_or_null(name)?)
    }

    /// A `u32` column without nulls, each value in the range of `T`.
    pub(crate) fn narrow<T: TryFrom<u32>>(&self, name: &'static str) -> Result<Vec<T>, TraceError> {
        let narrow = |(row, value)| {
            T::try_from(value)
                .map_err(|_| self.cell(row, name, "a smaller index or count", value.to_string()))
        };
        self.u32s(name)?.into_iter().enumerate().map(narrow).collect()
    }

    /// A text column without nulls.
    pub(crate) fn texts(&self, name: &'static str) -> Result<Vec<&str>, TraceError> {
        let cells = self
            .column(name, Kind::Text)?
            .str()
            .map_err(|source| TraceError::Read { path: self.path.clone(), source })?;
        self.whole(name, "text", cells.iter().collect())
    }

    /// A text column whose cells are the words of `all`.
    pub(crate) fn words<T: Copy>(
        &self,
        name: &'static str,
        all: &[T],
        word: impl Fn(T) -> &'static str,
        expected: &'static str,
    ) -> Result<Vec<T>, TraceError> {
        let find = |(row, text): (usize, &str)| {
            let found = all.iter().copied().find(|&value| word(value) == text);
            found.ok_or_else(|| self.cell(row, name, expected, format!("{text:?}")))
        };
        self.texts(name)?.into_iter().enumerate().map(find).collect()
    }

    /// An error about one cell.
    pub(crate) fn cell(
        &self,
        row: usize,
        column: &'static str,
        expected: &'static str,
        got: String,
    ) -> TraceError {
        TraceError::Cell { path: self.path.clone(), row, column, expected, got }
    }

    fn whole<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        cells: Vec<Option<T>>,
    ) -> Result<Vec<T>, TraceError> {
        let some = |(row, cell): (usize, Option<T>)| {
            cell.ok_or_else(|| self.cell(row, name, expected, "null".to_owned()))
        };
        cells.into_iter().enumerate().map(some).collect()
    }

    fn column(&self, name: &'static str, kind: Kind) -> Result<&Column, TraceError> {
        let bad =
            |got| TraceError::Column { path: self.path.clone(), column: name, expected: kind.as_str(), got };
        let column = self.frame.column(name).map_err(|_| bad("none".to_owned()))?;
        let is: &DataType = column.dtype();
        if *is == data_type(kind) { Ok(column) } else { Err(bad(is.to_string())) }
    }
}
