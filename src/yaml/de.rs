//! Serde over the tree: every error learns the place and the path of the value it is about.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Error as _, Unexpected, Visitor};

use super::node::{Key, Meaning, Node, Place, Scalar, Value};
use super::shown;
use crate::nearest::hint;

/// Reads a `T` from the tree.
pub(super) fn from_node<T: de::DeserializeOwned>(node: &Node) -> Result<T, DeError> {
    T::deserialize(NodeReader(node))
}

/// An error on its way up: the place is that of the innermost value, the path grows.
#[derive(Debug)]
pub(super) struct DeError {
    message: String,
    place: Option<Place>,
    /// Innermost first.
    path: Vec<String>,
}

impl DeError {
    /// Inside the value at `segment`, which stands at `place`.
    fn inside(mut self, segment: impl Into<String>, place: Place) -> Self {
        self.place.get_or_insert(place);
        self.path.push(segment.into());
        self
    }

    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// The place (`root` when no other is known) and the message behind its path.
    pub(super) fn into_parts(mut self, root: Place) -> (Place, String) {
        self.path.reverse();
        let message = if self.path.is_empty() {
            self.message
        } else {
            format!("{}: {}", shown(&self.path), self.message)
        };
        (self.place.unwrap_or(root), message)
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), place: None, path: Vec::new() }
    }

    fn invalid_type(got: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {}, got {}", words(expected), came(got)))
    }

    fn invalid_value(got: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(got, expected)
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {}, got a list of {length}", words(expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown name `{variant}`{}", hint(variant, expected.iter().copied())))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown field `{field}`{}", hint(field, expected.iter().copied())))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("missing field `{field}`"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::custom(format_args!("field `{field}` is given twice"))
    }
}

/// Serde's names of Rust types in words that a user knows.
fn words(expected: &dyn de::Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "f32" | "f64" => "a number".into(),
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number from 0 to 2^64 - 1".into(),
        "i32" | "i64" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        other if other.starts_with("struct ") || other.starts_with("tuple struct ") => {
            "a map of fields".into()
        }
        other
            if other.starts_with("enum ")
                || other.starts_with("struct variant ")
                || other.starts_with("newtype variant") =>
        {
            "a name, or a map of one name".into()
        }
        _ => expected,
    }
}

fn came(got: Unexpected<'_>) -> String {
    match got {
        Unexpected::Str(text) => format!("`{}`", short(text)),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value}`"),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a map".into(),
        other => other.to_string(),
    }
}

/// The first 40 characters: what came is named, not repeated.
fn short(text: &str) -> String {
    if text.chars().count() > 40 { text.chars().take(40).chain(['…']).collect() } else { text.to_owned() }
}

#[derive(Clone, Copy)]
struct NodeReader<'a>(&'a Node);

impl NodeReader<'_> {
    fn map_of_fields(self) -> Result<Self, DeError> {
        if matches!(self.0.value, Value::List(_)) {
            return Err(DeError::custom("expected a map of fields, got a list"));
        }
        Ok(self)
    }
}

fn visit_scalar<'de, V: Visitor<'de>>(scalar: &Scalar, visitor: V) -> Result<V::Value, DeError> {
    match scalar.meaning() {
        Meaning::Null => visitor.visit_unit(),
        Meaning::Bool(value) => visitor.visit_bool(value),
        Meaning::Unsigned(value) => visitor.visit_u64(value),
        Meaning::Signed(value) => visitor.visit_i64(value),
        Meaning::Float(value) => visitor.visit_f64(value),
        Meaning::Text(text) => visitor.visit_str(text),
    }
}

/// As [`visit_scalar`], where a whole number is wanted: `1e6` is one.
fn visit_whole<'de, V: Visitor<'de>>(scalar: &Scalar, visitor: V) -> Result<V::Value, DeError> {
    match scalar.meaning() {
        // Below 2^53 every whole float is the number that was written.
        Meaning::Float(value) if value.fract() == 0.0 && (0.0..9e15).contains(&value) => {
            visitor.visit_u64(value as u64)
        }
        // As it was written: a number past 2^64 is not the float it was read as.
        Meaning::Float(_) => {
            Err(de::Error::invalid_value(Unexpected::Other(&format!("`{}`", short(&scalar.text))), &visitor))
        }
        _ => visit_scalar(scalar, visitor),
    }
}

macro_rules! whole {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            match &self.0.value {
                Value::Scalar(scalar) => visit_whole(scalar, visitor),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeReader<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.0.value {
            Value::Scalar(scalar) => visit_scalar(scalar, visitor),
            Value::List(items) => {
                let mut access = Items { items, next: 0 };
                let value = visitor.visit_seq(&mut access)?;
                if access.next < items.len() {
                    return Err(DeError::custom(format_args!(
                        "expected a list of {}, got one of {}",
                        access.next,
                        items.len()
                    )));
                }
                Ok(value)
            }
            Value::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
        }
    }

    whole! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.0.value {
            Value::Scalar(scalar) if scalar.meaning() == Meaning::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match &self.0.value {
            Value::Scalar(name) if !matches!(name.meaning(), Meaning::Null) => {
                visitor.visit_enum(Variant { name, place: self.0.place, value: None })
            }
            Value::Map(entries) if entries.len() == 1 => {
                let (Key { scalar, place }, value) = &entries[0];
                visitor.visit_enum(Variant { name: scalar, place: *place, value: Some(value) })
            }
            other => {
                let got = match other {
                    Value::Scalar(_) => "nothing".to_owned(),
                    Value::List(_) => "a list".to_owned(),
                    Value::Map(entries) => {
                        let names: Vec<&str> =
                            entries.iter().map(|(key, _)| key.scalar.text.as_str()).collect();
                        format!("{} names: {}", names.len(), short(&names.join(", ")))
                    }
                };
                Err(DeError::custom(format_args!("expected one of {}, got {got}", names.join(", "))))
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        // Serde would fill a struct's fields from a list, in order: here fields have names.
        self.map_of_fields()?.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for &mut Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(NodeReader(item)).map(Some).map_err(|e| e.inside(index.to_string(), item.place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Entries<'a> {
    entries: &'a [(Key, Node)],
    next: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(KeyReader(&key.scalar)).map(Some).map_err(|e| e.at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let (key, node) = &self.entries[self.next - 1]; // Serde asks for a value only after its key.
        seed.deserialize(NodeReader(node)).map_err(|e| e.inside(key.scalar.text.clone(), node.place))
    }
}

/// A key: a name, unless the map wants numbers.
struct KeyReader<'a>(&'a Scalar);

macro_rules! whole_key {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            visit_whole(self.0, visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for KeyReader<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_str(&self.0.text)
    }

    whole_key! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_f32 deserialize_f64 }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_enum(de::value::StrDeserializer::new(&self.0.text))
    }

    serde::forward_to_deserialize_any! {
        bool i128 u128 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant: a bare name (`value` is `None`), or a name and its value.
struct Variant<'a> {
    name: &'a Scalar,
    place: Place,
    value: Option<&'a Node>,
}

impl<'a> Variant<'a> {
    fn inside(&self) -> impl FnOnce(DeError) -> DeError + use<'a> {
        let (name, place) = (self.name.text.clone(), self.value.map_or(self.place, |node| node.place));
        move |e| e.inside(name, place)
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = DeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeError> {
        let variant = seed.deserialize(KeyReader(self.name)).map_err(|e| e.at(self.place))?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        match self.value.map(|node| &node.value) {
            None => Ok(()),
            Some(Value::Map(entries)) if entries.is_empty() => Ok(()),
            Some(Value::Scalar(scalar)) if scalar.meaning() == Meaning::Null => Ok(()),
            Some(_) => Err(self.inside()(DeError::custom(format_args!(
                "`{}` has no fields: write it alone",
                self.name.text
            )))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        // A bare name leaves every field to its default; so does `name:` with nothing behind it.
        let empty = Node { place: self.place, value: Value::Map(Vec::new()) };
        seed.deserialize(NodeReader(self.fields(&empty))).map_err(self.inside())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        let empty = Node { place: self.place, value: Value::List(Vec::new()) };
        NodeReader(self.fields(&empty)).deserialize_any(visitor).map_err(self.inside())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let empty = Node { place: self.place, value: Value::Map(Vec::new()) };
        NodeReader(self.fields(&empty))
            .map_of_fields()
            .and_then(|reader| reader.deserialize_any(visitor))
            .map_err(self.inside())
    }
}

impl<'a> Variant<'a> {
    fn fields<'b>(&self, empty: &'b Node) -> &'b Node
    where
        'a: 'b,
    {
        match self.value {
            Some(node) if !matches!(&node.value, Value::Scalar(s) if s.meaning() == Meaning::Null) => node,
            _ => empty,
        }
    }
}
