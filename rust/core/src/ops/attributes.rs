//! The attributes of a node as they come from outside: untyped, untrusted.

use std::collections::BTreeMap;
use std::fmt;

use crate::shape::Dims3;

/// One attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A name.
    Text(String),
    /// Several values.
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(values) => {
                f.debug_list().entries(values.iter().map(|value| format_args!("{value}").to_string())).finish()
            }
        }
    }
}

/// Values by name. Each is taken out once, so that [`Attributes::finish`] sees what nobody asked for.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    values: BTreeMap<String, Value>,
}

/// Sizes beyond this are typing errors; below it, products of a few of them cannot overflow.
const MAX_SIZE: usize = 1 << 24;

impl Attributes {
    /// The attributes of one node.
    pub fn new(values: BTreeMap<String, Value>) -> Self {
        Self { values }
    }

    /// A size: at least 1.
    pub fn size(&mut self, name: &str) -> Result<usize, String> {
        let value = self.take(name)?;
        to_size(&value, 1).ok_or_else(|| unexpected(name, "a whole number >= 1", &value))
    }

    /// A count: at least 0.
    pub fn count(&mut self, name: &str) -> Result<usize, String> {
        let value = self.take(name)?;
        to_size(&value, 0).ok_or_else(|| unexpected(name, "a whole number >= 0", &value))
    }

    /// True or false.
    pub fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name)? {
            Value::Bool(value) => Ok(value),
            value => Err(unexpected(name, "true or false", &value)),
        }
    }

    /// As [`Attributes::flag`], where the attribute may be left out.
    pub fn flag_or(&mut self, name: &str, default: bool) -> Result<bool, String> {
        if self.has(name) { self.flag(name) } else { Ok(default) }
    }

    /// A finite number.
    pub fn number(&mut self, name: &str) -> Result<f32, String> {
        let value = self.take(name)?;
        let number = match value {
            Value::Int(value) => value as f32,
            Value::Float(value) => value as f32,
            _ => f32::NAN,
        };
        if number.is_finite() { Ok(number) } else { Err(unexpected(name, "a finite number", &value)) }
    }

    /// As [`Attributes::number`], where the attribute may be left out.
    pub fn number_or(&mut self, name: &str, default: f32) -> Result<f32, String> {
        if self.has(name) { self.number(name) } else { Ok(default) }
    }

    /// As [`Attributes::count`], where the attribute may be left out.
    pub fn count_or(&mut self, name: &str, default: usize) -> Result<usize, String> {
        if self.has(name) { self.count(name) } else { Ok(default) }
    }

    /// As [`Attributes::number_or`], and within `range`.
    pub fn number_within(
        &mut self,
        name: &str,
        default: f32,
        range: std::ops::RangeInclusive<f32>,
    ) -> Result<f32, String> {
        let number = self.number_or(name, default)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            let (low, high) = range.into_inner();
            let expected = if high == f32::MAX { format!("a number >= {low}") } else { format!("{low} to {high}") };
            Err(unexpected(name, &expected, &Value::Float(f64::from(number))))
        }
    }

    /// One of these names; the first if the attribute is left out.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<T, String> {
        if !self.has(name) {
            return Ok(choices[0].1);
        }
        let text = self.text(name)?;
        let names = || choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", ");
        let found = choices.iter().find(|(choice, _)| *choice == text);
        found.map(|found| found.1).ok_or_else(|| unexpected(name, &format!("one of {}", names()), &Value::Text(text)))
    }

    /// Whole numbers, in a list or one alone; none if the attribute is left out.
    pub fn whole_numbers(&mut self, name: &str) -> Result<Option<Vec<i64>>, String> {
        self.list(name, "whole numbers", |item| match item {
            Value::Int(value) => Some(*value),
            _ => None,
        })
    }

    /// Finite numbers, in a list or one alone; none if the attribute is left out.
    pub fn numbers(&mut self, name: &str) -> Result<Option<Vec<f32>>, String> {
        self.list(name, "finite numbers", |item| match *item {
            Value::Int(value) => Some(value as f32),
            Value::Float(value) => Some(value as f32).filter(|value| value.is_finite()),
            _ => None,
        })
    }

    fn list<T>(
        &mut self,
        name: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, String> {
        if !self.has(name) {
            return Ok(None);
        }
        let value = self.take(name)?;
        let items = match &value {
            Value::List(items) => items.iter().map(convert).collect::<Option<Vec<T>>>(),
            alone => convert(alone).map(|item| vec![item]),
        };
        items.map(Some).ok_or_else(|| unexpected(name, expected, &value))
    }

    /// Whether the attribute is there.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A name.
    pub fn text(&mut self, name: &str) -> Result<String, String> {
        match self.take(name)? {
            Value::Text(value) => Ok(value),
            value => Err(unexpected(name, "a name", &value)),
        }
    }

    /// Depth, height, width, each at least 1.
    pub fn sizes(&mut self, name: &str) -> Result<Dims3, String> {
        let value = self.take(name)?;
        to_array(&value, |item| to_size(item, 1)).ok_or_else(|| unexpected(name, "three whole numbers >= 1", &value))
    }

    /// Depth, height, width, each finite and above 0.
    pub fn factors(&mut self, name: &str) -> Result<[f64; 3], String> {
        let value = self.take(name)?;
        let factor = |item: &Value| match *item {
            Value::Int(value) => Some(value as f64),
            Value::Float(value) => Some(value),
            _ => None,
        };
        let positive = |item: &Value| factor(item).filter(|factor| factor.is_finite() && *factor > 0.0);
        to_array(&value, positive).ok_or_else(|| unexpected(name, "three numbers > 0", &value))
    }

    /// Depth, height, width, each at least 0.
    pub fn counts(&mut self, name: &str) -> Result<Dims3, String> {
        let value = self.take(name)?;
        to_array(&value, |item| to_size(item, 0)).ok_or_else(|| unexpected(name, "three whole numbers >= 0", &value))
    }

    /// Before and after, for depth, height, width, each at least 0.
    pub fn pairs(&mut self, name: &str) -> Result<[[usize; 2]; 3], String> {
        let value = self.take(name)?;
        to_array(&value, |pair| to_array(pair, |item| to_size(item, 0)))
            .ok_or_else(|| unexpected(name, "three pairs of whole numbers >= 0", &value))
    }

    /// Fails if an attribute is left that nobody asked for.
    pub fn finish(self) -> Result<(), String> {
        match self.values.keys().next() {
            Some(name) => Err(format!("unknown attribute {name:?}")),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str) -> Result<Value, String> {
        self.values.remove(name).ok_or_else(|| format!("attribute {name:?} is missing"))
    }
}

fn to_size(value: &Value, least: usize) -> Option<usize> {
    match value {
        Value::Int(value) => usize::try_from(*value).ok().filter(|value| (least..=MAX_SIZE).contains(value)),
        _ => None,
    }
}

fn to_array<T, const N: usize>(value: &Value, convert: impl Fn(&Value) -> Option<T>) -> Option<[T; N]> {
    match value {
        Value::List(items) => items.iter().map(convert).collect::<Option<Vec<T>>>()?.try_into().ok(),
        _ => None,
    }
}

fn unexpected(name: &str, expected: &str, got: &Value) -> String {
    format!("attribute {name:?}: expected {expected}, got {got}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_leftovers_refused() {
        let three = Value::List(vec![Value::Int(1), Value::Int(2), Value::Int(3)]);
        let mut attributes = Attributes::new(BTreeMap::from([
            ("kernel".into(), three.clone()),
            ("groups".into(), Value::Int(0)),
            ("bias".into(), Value::Bool(true)),
            ("epsilon".into(), Value::Float(f64::NAN)),
            ("extra".into(), Value::Int(1)),
        ]));
        assert_eq!(attributes.sizes("kernel"), Ok([1, 2, 3]));
        assert!(attributes.size("groups").unwrap_err().contains("groups"));
        assert_eq!(attributes.flag("bias"), Ok(true));
        assert!(attributes.number("epsilon").is_err());
        assert!(attributes.size("filters").unwrap_err().contains("missing"));
        assert!(attributes.finish().unwrap_err().contains("extra"));
    }
}
