//! The program: what is open, what happens to it, and where it is drawn.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use eframe::{
    Frame,
    egui::{self, Button, CentralPanel, Context, Key, KeyboardShortcut, Modifiers, Panel, RawInput, Ui},
};
use nimbert::{Background, Options};

use crate::{
    Notify,
    dialogs::{Chosen, Dialogs},
    gate::Gate,
    labelling::Labelling,
    live::Live,
    live_panel,
    measure::{self, Measure},
    model::{self, Opening},
    rows::Rows,
    rows_panel,
};

const OPEN_MODEL: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::O);
const OPEN_FOLDER: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::O);
const OPEN_ROWS: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::R);
pub(crate) const EXPORT: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::E);
pub(crate) const START_OR_STOP: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::L);
const TO_TEXT: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::T);
const TO_FILTER: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::F);

/// What the program begins with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How bundles are opened.
    pub options: Options,
    /// A bundle to be opened.
    pub bundle: Option<PathBuf>,
    /// A file of rows to be opened.
    pub rows: Option<PathBuf>,
    /// The column of the text.
    pub text_column: String,
    /// Whether the program measures itself, and ends.
    pub measure: bool,
}

/// The program.
pub struct App {
    options: Options,
    notify: Notify,
    gate: Arc<Gate>,
    opening: Option<Opening>,
    model: Option<Background>,
    wanted_rows: Option<PathBuf>,
    dialogs: Dialogs,
    /// What is typed.
    pub live: Live,
    /// The open file of rows.
    pub rows: Option<Rows>,
    /// The column of the text, for the next file.
    pub text_column: String,
    /// What the user is told.
    pub message: Option<String>,
    measure: Option<Measure>,
}

impl App {
    /// Begins to open what `settings` name.
    pub fn new(context: &Context, settings: Settings) -> Self {
        let context = context.clone();
        let notify: Notify = Arc::new(move || context.request_repaint());
        let gate = Arc::<Gate>::default();
        let mut app = Self {
            options: settings.options,
            live: Live::new(Arc::clone(&gate), Arc::clone(&notify)),
            dialogs: Dialogs::new(Arc::clone(&notify)),
            notify,
            gate,
            opening: None,
            model: None,
            wanted_rows: None,
            rows: None,
            text_column: settings.text_column,
            message: None,
            measure: settings.measure.then(|| Measure::new(settings.rows.clone())),
        };
        if let Some(bundle) = settings.bundle {
            app.open_model(bundle);
        }
        if let Some(rows) = settings.rows.filter(|_| !settings.measure) {
            app.open_rows(rows);
        }
        app
    }

    /// Opens what was dropped: a folder or a `.nimbert` file is a model, any other file has rows.
    pub fn open(&mut self, path: PathBuf) {
        let is_model = path.is_dir() || path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("nimbert"));
        if is_model { self.open_model(path) } else { self.open_rows(path) }
    }

    /// Begins to open a bundle.
    pub fn open_model(&mut self, path: PathBuf) {
        self.message = None;
        self.opening = Some(model::open(path, &self.options, Arc::clone(&self.notify)));
    }

    /// Opens a file of rows, once there is a model: labels are kept by model.
    pub fn open_rows(&mut self, path: PathBuf) {
        self.message = None;
        let Some(model) = &self.model else {
            if self.opening.is_none() {
                self.message = Some("Open a model first; then the rows are opened.".to_owned());
            }
            self.wanted_rows = Some(path);
            return;
        };
        let (gate, notify) = (Arc::clone(&self.gate), Arc::clone(&self.notify));
        let column = self.text_column.trim().to_owned();
        let labelling = Labelling::open(path, column, Arc::clone(model.classifier()), gate, Arc::clone(&notify));
        drop_elsewhere(self.rows.replace(Rows::new(labelling, notify)));
    }

    /// Whether a model is open.
    pub fn has_model(&self) -> bool {
        self.model.is_some()
    }

    fn take_model(&mut self) {
        let Some(answer) = self.opening.as_ref().and_then(Opening::poll) else { return };
        self.opening = None;
        match answer {
            Ok(classifier) => {
                drop_elsewhere(self.model.replace(Background::new(Arc::new(classifier))));
                self.live.edited(Instant::now());
                // Rows that are open are labelled by this model from now on.
                let rows = self.wanted_rows.take().or_else(|| Some(self.rows.as_ref()?.path().clone()));
                if let Some(rows) = rows {
                    self.open_rows(rows);
                }
            }
            Err(message) => self.message = Some(message),
        }
    }

    fn take_chosen(&mut self, context: &Context) {
        match self.dialogs.poll() {
            Some(Chosen::Model(path)) => self.open_model(path),
            Some(Chosen::Rows(path)) => self.open_rows(path),
            Some(Chosen::Export(path)) => self.export(path),
            None => {}
        }
        let dropped = context.input(|input| input.raw.dropped_files.clone());
        dropped.into_iter().filter_map(|file| file.path).for_each(|path| self.open(path));
    }

    /// Writes the corrected rows.
    pub fn export(&self, path: PathBuf) {
        if let Some(rows) = &self.rows {
            rows.export(path);
        }
    }

    fn take_shortcuts(&mut self, context: &Context) {
        let is_pressed = |shortcut: &KeyboardShortcut| context.input_mut(|input| input.consume_shortcut(shortcut));
        // The one with more modifiers first: the other one would take it.
        if is_pressed(&OPEN_FOLDER) {
            self.dialogs.ask_model_folder();
        }
        if is_pressed(&OPEN_MODEL) {
            self.dialogs.ask_model_file();
        }
        if is_pressed(&OPEN_ROWS) {
            self.dialogs.ask_rows();
        }
        if let (true, Some(rows)) = (is_pressed(&EXPORT), self.rows.as_ref().filter(|rows| rows.is_exportable())) {
            self.dialogs.ask_export(&rows.export_path());
        }
        if let (true, Some(rows)) = (is_pressed(&START_OR_STOP), self.rows.as_ref().filter(|rows| rows.is_open())) {
            if rows.is_running { rows.stop() } else { rows.start() }
        }
        if is_pressed(&TO_TEXT) {
            context.memory_mut(|memory| memory.request_focus(live_panel::text_id()));
        }
        if is_pressed(&TO_FILTER) {
            context.memory_mut(|memory| memory.request_focus(rows_panel::filter_id()));
        }
    }

    fn toolbar(&mut self, ui: &mut Ui) {
        ui.horizontal_wrapped(|ui| {
            let keys = |shortcut| ui.ctx().format_shortcut(shortcut);
            let [model, folder, rows] = [&OPEN_MODEL, &OPEN_FOLDER, &OPEN_ROWS].map(keys);
            if ui.button("Open model…").on_hover_text(format!("A .nimbert file ({model})")).clicked() {
                self.dialogs.ask_model_file();
            }
            if ui.button("Open folder…").on_hover_text(format!("A model's folder ({folder})")).clicked() {
                self.dialogs.ask_model_folder();
            }
            if ui.button("Open rows…").on_hover_text(format!("CSV, TSV, JSON Lines or text ({rows})")).clicked() {
                self.dialogs.ask_rows();
            }
            let label = ui.label("Text column");
            let field = egui::TextEdit::singleline(&mut self.text_column).desired_width(80.0);
            ui.add(field).labelled_by(label.id);
            egui::widgets::global_theme_preference_buttons(ui);
            ui.label(match (&self.opening, &self.model) {
                (Some(opening), _) => format!("Opening {} …", name(&opening.path)),
                (None, Some(model)) => format!("Model: {}", name(&model.classifier().bundle().path)),
                (None, None) => "No model. Open one, or drop it here.".to_owned(),
            });
        });
    }

    fn message_bar(&mut self, ui: &mut Ui) {
        let Some(message) = self.message.clone() else { return };
        Panel::bottom("message").show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                if ui.add(Button::new("Dismiss")).clicked() {
                    self.message = None;
                }
                ui.label(message);
            });
        });
    }
}

impl eframe::App for App {
    fn logic(&mut self, context: &Context, _: &mut Frame) {
        let now = Instant::now();
        self.take_model();
        self.take_chosen(context);
        self.take_shortcuts(context);
        let mut waits: Vec<Duration> = self.live.step(now, self.model.as_ref()).into_iter().collect();
        if let Some(rows) = &mut self.rows {
            let (news, wait) = rows.step(now);
            waits.extend(wait);
            if !news.is_empty() {
                self.message = Some(news.join("\n"));
            }
        }
        if let Some(wait) = waits.into_iter().min() {
            context.request_repaint_after(wait);
        }
    }

    fn ui(&mut self, ui: &mut Ui, _: &mut Frame) {
        Panel::top("toolbar").show(ui, |ui| self.toolbar(ui));
        self.message_bar(ui);
        let has_model = self.model.is_some();
        Panel::top("live")
            .resizable(true)
            .default_size(260.0)
            .show(ui, |ui| live_panel::show(ui, &mut self.live, has_model));
        CentralPanel::default_margins().show(ui, |ui| match &mut self.rows {
            Some(rows) => {
                if rows_panel::show(ui, rows) {
                    let path = rows.export_path();
                    self.dialogs.ask_export(&path);
                }
            }
            None => drop(ui.label("No rows. Open a file of texts, or drop it here.")),
        });
        // A key of this frame is asked about before the frame is drawn.
        if let Some(wait) = self.live.ask_what_is_due(Instant::now(), self.model.as_ref()) {
            ui.ctx().request_repaint_after(wait);
        }
        if let Some(measure) = &mut self.measure {
            measure.after_frame(ui.ctx(), &self.live);
        }
    }

    fn raw_input_hook(&mut self, context: &Context, input: &mut RawInput) {
        let Some(mut measure) = self.measure.take() else { return };
        // A window without a window manager has no focus.
        input.focused = true;
        match measure.before_frame(self, context, input) {
            measure::Step::Nothing => {}
            measure::Step::OpenRows(path) => self.open_rows(path),
            measure::Step::Clear => {
                self.live.text.clear();
                self.live.edited(Instant::now());
            }
        }
        self.measure = Some(measure);
    }

    /// What must be kept is kept before the process ends. The window is gone already, so that nobody waits for it.
    fn on_exit(&mut self, _: Option<&eframe::glow::Context>) {
        self.rows = None;
        self.model = None;
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What waits for its threads when it is dropped does not do so on the thread of the window.
fn drop_elsewhere<T: Send + 'static>(value: Option<T>) {
    if let Some(value) = value {
        std::thread::spawn(move || drop(value));
    }
}
