//! What C gives: texts, arrays, and structs that begin with their size.

#![allow(unsafe_code, reason = "C gives pointers")]

use std::{
    ffi::{CStr, c_char},
    fmt::Display,
    marker::PhantomData,
    mem, ptr, slice,
    str::FromStr,
    time::Duration,
};

use nimbert::{
    BackgroundOptions, ErrorKind, Options, TextInput,
    explain::{Attribution, Explained},
};

use crate::failure::{Result, argument, failure};

/// A pointer as nimbert.h asks for it: NULL, or to something that stays, unchanged, while the function runs. Only C
/// makes one, and what is read through one is read here.
#[repr(transparent)]
pub(crate) struct Given<'a, T>(*const T, PhantomData<&'a T>);

/// A text that ends with NUL.
pub(crate) type Text<'a> = Given<'a, c_char>;

/// `nimbert_setting`
#[repr(C)]
pub(crate) struct Setting<'a> {
    name: Text<'a>,
    value: Text<'a>,
}

/// `nimbert_options`
#[repr(C)]
pub(crate) struct RawOptions<'a> {
    _size: usize,
    device: Text<'a>,
    threads: usize,
    cache: Text<'a>,
    settings: Given<'a, Setting<'a>>,
    setting_count: usize,
}

/// `nimbert_call_options`
#[repr(C)]
pub(crate) struct RawCallOptions<'a> {
    _size: usize,
    truncation: Text<'a>,
    timeout_ms: u64,
}

/// `nimbert_input`
#[repr(C)]
pub(crate) struct RawInput<'a> {
    text: Given<'a, u8>,
    length: usize,
    pair: Given<'a, u8>,
    pair_length: usize,
}

/// `nimbert_explain_options`
#[repr(C)]
pub(crate) struct RawExplainOptions<'a> {
    _size: usize,
    task: Text<'a>,
    label: Text<'a>,
    attribution: Text<'a>,
}

pub(crate) type GivenOptions<'a> = Given<'a, RawOptions<'a>>;
pub(crate) type GivenCallOptions<'a> = Given<'a, RawCallOptions<'a>>;
pub(crate) type GivenExplainOptions<'a> = Given<'a, RawExplainOptions<'a>>;
pub(crate) type GivenInputs<'a> = Given<'a, RawInput<'a>>;

/// No struct will be larger: what says so was not set.
const MAX_STRUCT: usize = 4096;

impl<'a, T> Given<'a, T> {
    pub(crate) fn array(&self, what: impl Display, count: usize) -> Result<&'a [T]> {
        if count == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() || count > isize::MAX.unsigned_abs() / size_of::<T>() {
            return Err(argument(format!("{what}: expected {count} elements, found {:p}", self.0)));
        }
        // SAFETY: nimbert.h asks for so many.
        Ok(unsafe { slice::from_raw_parts(self.0, count) })
    }

    /// A struct as this library knows it: what an older program does not know of it is 0, and so must be what a newer
    /// program alone knows. NULL is all zeros.
    ///
    /// # Safety
    /// `T` begins with its size, has no padding, and any bytes are a value of it.
    unsafe fn read_struct(&self) -> Result<T> {
        let own_size = size_of::<T>();
        // SAFETY: zeros are a value.
        let mut read = unsafe { mem::zeroed() };
        if self.0.is_null() {
            return Ok(read);
        }
        // SAFETY: nimbert.h asks for a struct that begins with its size.
        let size = unsafe { self.0.cast::<usize>().read() };
        let known = size.min(own_size);
        // SAFETY: and for one that has it, which is looked at if it can be.
        let rest = || unsafe { slice::from_raw_parts(self.0.cast::<u8>().add(known), size - known) };
        if !(size_of::<usize>()..=MAX_STRUCT).contains(&size) || rest().iter().any(|byte| *byte != 0) {
            let expected = format!("a struct that begins with its size, {own_size} or more with zeros behind");
            return Err(argument(format!("expected {expected}, found {size}")));
        }
        // SAFETY: both have so many bytes, and any are a value.
        unsafe { ptr::copy_nonoverlapping(self.0.cast::<u8>(), (&raw mut read).cast(), known) };
        Ok(read)
    }
}

impl<'a> Text<'a> {
    pub(crate) fn read(&self, what: &str) -> Result<&'a str> {
        self.optional(what)?.ok_or_else(|| argument(format!("{what}: expected a text, found NULL")))
    }

    pub(crate) fn optional(&self, what: &str) -> Result<Option<&'a str>> {
        // SAFETY: nimbert.h asks for NULL or a text that ends with NUL.
        let text = (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) });
        text.map(|text| utf8(what, text.to_bytes())).transpose()
    }

    /// One of few values by its name; of NULL, the default.
    fn parsed<V: FromStr<Err = String> + Default>(&self, what: &str) -> Result<V> {
        let value = self.optional(what)?.map(str::parse).transpose();
        let refused = |error| failure(ErrorKind::Setting as i32, format!("{what}: {error}"));
        Ok(value.map_err(refused)?.unwrap_or_default())
    }
}

impl<'a> GivenExplainOptions<'a> {
    /// What is to be explained, and by which attribution.
    pub(crate) fn read(&self) -> Result<(Explained<'a>, Attribution)> {
        // SAFETY: it is such a struct.
        let given = unsafe { self.read_struct() }?;
        let explained = Explained { task: given.task.optional("task")?, label: given.label.optional("label")? };
        Ok((explained, given.attribution.parsed("attribution")?))
    }
}

impl GivenOptions<'_> {
    pub(crate) fn read(&self) -> Result<Options> {
        // SAFETY: it is such a struct.
        let given = unsafe { self.read_struct() }?;
        let mut options = Options::default();
        for (name, value) in [("device", given.device), ("cache", given.cache)] {
            if let Some(value) = value.optional(name)? {
                options.set(name, value)?;
            }
        }
        if given.threads != 0 {
            options.set("threads", &given.threads.to_string())?;
        }
        for Setting { name, value } in given.settings.array("settings", given.setting_count)? {
            options.set(name.read("a setting's name")?, value.read("a setting's value")?)?;
        }
        Ok(options)
    }
}

impl GivenCallOptions<'_> {
    pub(crate) fn read(&self) -> Result<BackgroundOptions> {
        // SAFETY: it is such a struct.
        let given = unsafe { self.read_struct() }?;
        let timeout = (given.timeout_ms != 0).then(|| Duration::from_millis(given.timeout_ms));
        Ok(BackgroundOptions { timeout, truncation: given.truncation.parsed("truncation")? })
    }
}

impl<'a> GivenInputs<'a> {
    pub(crate) fn read(&self, count: usize) -> Result<Vec<TextInput<'a>>> {
        let read = |(index, input): (usize, &RawInput<'a>)| {
            let (text, pair) = (format_args!("inputs[{index}].text"), format_args!("inputs[{index}].pair"));
            let text = utf8(text, input.text.array(text, input.length)?)?;
            let pair = utf8(pair, input.pair.array(pair, input.pair_length)?)?;
            Ok(TextInput { text, pair: (!input.pair.0.is_null()).then_some(pair) })
        };
        self.array("inputs", count)?.iter().enumerate().map(read).collect()
    }
}

fn utf8(what: impl Display, bytes: &[u8]) -> Result<&str> {
    str::from_utf8(bytes).map_err(|error| {
        let place = error.valid_up_to();
        argument(format!("{what}: expected UTF-8, found byte {:#04x} at {place}", bytes[place]))
    })
}
