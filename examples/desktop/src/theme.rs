//! Colours that stand for something, in light and dark.

use eframe::egui::{Color32, Visuals};

/// Behind a word that spoke for the label, or against it: the stronger, the fuller. `share` is between -1 and 1.
pub(crate) fn word(visuals: &Visuals, share: f32) -> Color32 {
    let colour = match (share >= 0.0, visuals.dark_mode) {
        (true, true) => Color32::from_rgb(20, 140, 80),
        (true, false) => Color32::from_rgb(80, 200, 130),
        (false, true) => Color32::from_rgb(170, 70, 50),
        (false, false) => Color32::from_rgb(240, 140, 110),
    };
    colour.gamma_multiply(share.abs().clamp(0.0, 1.0))
}

/// A corrected label.
pub(crate) fn correction(visuals: &Visuals) -> Color32 {
    if visuals.dark_mode { Color32::from_rgb(250, 190, 80) } else { Color32::from_rgb(150, 85, 0) }
}
