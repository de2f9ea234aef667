//! Scalars as a TensorBoard event file: records of TFRecord framing around protobuf messages, of which these few fields
//! are used.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use nimbert::HiddenFolder;
use prost::Message;

use crate::{
    error::{Error, Result},
    record::Record,
    scratch::write_whole,
};

/// `Event` of TensorFlow's event.proto.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `Summary` of summary.proto.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `Summary.Value` of summary.proto.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// Writes the records of a run into a new event file in `folder`, which is made where it is missing.
///
/// # Errors
/// [`Error::Io`].
pub fn write(folder: &Path, records: &[Record]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // TensorBoard reads every file with this in its name.
    let path = folder.join(format!("events.out.tfevents.{wall_time:.0}.nimbert.{}", std::process::id()));
    let version = Event { wall_time, file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
    let mut content = frame(&version.encode_to_vec());
    for record in records {
        let (step, values) = scalars(record);
        let value = values.into_iter().map(|(tag, value)| Value { tag: tag.to_owned(), simple_value: value as f32 });
        let event = Event { wall_time, step, file_version: None, summary: Some(Summary { value: value.collect() }) };
        content.extend(frame(&event.encode_to_vec()));
    }
    write_whole(&path, |partial| fs::write(partial, &content).map_err(|error| Error::io(&path, error)))
}

/// Checks that something can be written into `folder`, which may not be there yet.
///
/// # Errors
/// [`Error::Io`].
pub fn check(folder: &Path) -> Result<()> {
    let nearest = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    Ok(HiddenFolder::create(nearest, "tensorboard").map(drop)?)
}

fn scalars(record: &Record) -> (i64, Vec<(&'static str, f64)>) {
    match record {
        Record::Step(step) => (
            step.step as i64,
            vec![
                ("train/loss", f64::from(step.loss)),
                ("train/learning_rate", step.learning_rate),
                ("train/grad_norm", step.grad_norm),
            ],
        ),
        Record::Epoch(epoch) => {
            let optional = [
                ("validation/accuracy", epoch.validation_accuracy),
                ("validation/macro_f1", epoch.validation_macro_f1),
                ("test/accuracy", epoch.test_accuracy),
                ("test/macro_f1", epoch.test_macro_f1),
            ];
            let mut values = vec![
                ("epoch/loss", epoch.loss),
                ("epoch/train_accuracy", epoch.train_accuracy),
                ("epoch/rows_per_second", epoch.rows_per_second),
            ];
            values.extend(optional.into_iter().filter_map(|(tag, value)| Some((tag, value?))));
            (epoch.step as i64, values)
        }
    }
}

/// A record of a TFRecord file: length, its checksum, the data, its checksum.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked_crc32c(bytes).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

/// CRC-32C (Castagnoli), rotated and offset as TFRecord asks for.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let crc = !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(crc & 1)))
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_standard_example() {
        // CRC-32C of "123456789" is e3069283 (RFC 3720 names the polynomial; the value is its usual check).
        assert_eq!(masked_crc32c(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn records_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let step = crate::record::StepRecord { step: 7, epoch: 1, loss: 0.5, learning_rate: 0.25, grad_norm: 2.0 };
        write(folder.path(), &[Record::Step(step)]).unwrap();
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
        assert!(file.file_name().to_string_lossy().contains("tfevents"));
        let content = std::fs::read(file.path()).unwrap();
        let length = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().unwrap()) as usize;
        let second = length(0) + 16;
        let event = Event::decode(&content[second + 12..][..length(second)]).unwrap();
        assert_eq!((event.step, event.summary.unwrap().value[0].simple_value), (7, 0.5));
    }
}
