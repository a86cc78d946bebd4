//! Draws in proportion to weight, in constant time.

use super::below;
use crate::model::Target;
use rand::Rng;
use rand::rngs::SmallRng;
use std::sync::Arc;

/// Vose's alias table ("A linear algorithm for generating random numbers with a given distribution", 1991): as many
/// columns of equal height as there are targets; in each one target keeps the lower part, at most one other the rest.
#[derive(Debug)]
pub struct AliasTable {
    columns: Box<[Column]>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Height of the owner's part in units of 2^-32, exact to one unit.
    kept: u32,
    /// Who has the rest.
    other: u32,
}

impl AliasTable {
    pub fn new(targets: &[Arc<Target>]) -> Self {
        let count = targets.len() as u64;
        // In units in which every column is `height` high, each target has `count * weight` to give away: no rounding
        // while the table is filled.
        let height: u64 = targets.iter().map(|t| u64::from(t.endpoint.weight.get())).sum();
        let mut left: Vec<u64> = targets.iter().map(|t| u64::from(t.endpoint.weight.get()) * count).collect();
        let mut columns: Box<[Column]> =
            (0..count).map(|own| Column { kept: u32::MAX, other: own as u32 }).collect();
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            (0..targets.len()).partition(|i| left.get(*i).is_some_and(|l| *l < height));
        while let (Some(short), Some(&rich)) = (low.pop(), high.last()) {
            let part = left.get(short).copied().unwrap_or(height);
            if let Some(column) = columns.get_mut(short) {
                let kept = (u128::from(part) << 32) / u128::from(height.max(1));
                *column = Column { kept: u32::try_from(kept).unwrap_or(u32::MAX), other: rich as u32 };
            }
            if let Some(rest) = left.get_mut(rich) {
                *rest -= height - part;
                if *rest < height {
                    high.pop();
                    low.push(rich);
                }
            }
        }
        Self { columns }
    }

    /// The index of a target; `None` if there is none.
    pub fn draw(&self, rng: &mut SmallRng) -> Option<usize> {
        let own = below(rng, self.columns.len());
        let column = self.columns.get(own)?;
        Some(if rng.next_u32() <= column.kept { own } else { column.other as usize })
    }
}
