//! A program with a window around [`nimbert`]: type a text and see its scores, label a file of rows, correct labels.
//!
//! Data flows one way. Each of [`model`], [`live`], [`labelling`] and [`view`] hands its work to a thread and gives
//! back what has come, and none knows of egui; [`app`] asks them before every frame and draws what they hold. So
//! nothing that the thread of the window calls waits for a file or a model.

pub mod app;
pub mod dialogs;
pub mod export;
pub mod gate;
pub mod journal;
pub mod labelling;
pub mod live;
mod live_panel;
pub mod measure;
pub mod model;
pub mod rows;
mod rows_panel;
mod rows_table;
pub mod source;
pub mod table;
mod theme;
pub mod view;

/// Called by other threads when there is something new to draw.
pub type Notify = std::sync::Arc<dyn Fn() + Send + Sync>;
