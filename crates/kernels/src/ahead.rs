//! Where a thread that reads weights for few rows asks for memory ahead of time.

/// How far ahead, at least: half a microsecond of reading, as long as busy memory takes to answer.
const AHEAD_BYTES: usize = 8192;

/// Within a task weights follow each other, behind its end lies what another thread reads, and this one's next task
/// begins elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Of the task.
    pub end: *const u8,
    /// From the task's end to where the thread's next task probably begins.
    pub skip: isize,
}

impl Ahead {
    pub fn new(end: *const u8, next: *const u8) -> Ahead {
        Ahead { end, skip: (next as isize).wrapping_sub(end as isize) }
    }

    /// For a row of so many bytes, of which `rows` are read together: the row to ask for while this one is read.
    #[inline(always)]
    pub fn of(self, row: *const u8, row_bytes: usize, rows: usize) -> *const u8 {
        let rows = rows.max(AHEAD_BYTES.div_ceil(row_bytes.max(1)));
        let next = row.wrapping_add(rows * row_bytes);
        if next < self.end { next } else { next.wrapping_offset(self.skip) }
    }
}
