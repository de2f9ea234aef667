//! Which columns have what: options of the commands that read labelled text.

use nimbert::{ProblemType, Task, rows::ReadOptions};
use nimbert_trainer::{
    Error,
    dataset::{Columns, OnMissing, TaskColumn},
    tasks::SEPARATOR,
};

use super::Given;

/// Where labels are, if nothing else is said.
const DEFAULT_LABEL: &str = "label";

/// The columns of a data file, and how labels are read.
#[derive(Clone, clap::Args, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ColumnArgs {
    /// Column (or key) of the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub(super) text_column: String,
    /// Column (or key) of the label
    #[arg(long, default_value = DEFAULT_LABEL, value_name = "NAME")]
    pub(super) label_column: String,
    /// Column (or key) of the second text, to classify pairs
    #[arg(long, value_name = "NAME")]
    pub(super) text_pair_column: Option<String>,
    /// A column for each label instead, in the order of the ids: with 0 and 1 (--multi-label), else with shares that sum to
    /// 1, such as several people's votes
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with = "label_column")]
    pub(super) label_columns: Vec<String>,
    /// A row may have any number of labels: a list (of JSON, or as Python writes one), or a string of them
    #[arg(long)]
    pub(super) multi_label: bool,
    /// What stands between labels in a string
    #[arg(long, default_value_t = ',', value_name = "CHARACTER")]
    pub(super) label_separator: char,
    /// The label of rows that are like none of the others: no label of the classifier, but texts that it is to take for unknown.
    /// With `fit --unknown-rate` a part of them, and those of --validation-data, teach which those are, and a part tests it;
    /// elsewhere they are set aside
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["label_columns", "multi_label"])]
    pub(super) unknown_label: Option<String>,
    /// Column (or key) of how much each row counts in training
    #[arg(long, value_name = "NAME")]
    pub(super) weight_column: Option<String>,
    /// What a row does whose label or weight is missing (nothing, null, or a word for it such as NaN or None), or whose text is null:
    /// error, skip (it is left out and counted), or keep (such a word is a label's name)
    #[arg(long, value_enum, default_value_t = OnMissingArg::Error)]
    pub(super) on_missing: OnMissingArg,
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) read: ReadOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnMissingArg {
    Error,
    Skip,
    Keep,
}

/// `--task NAME=COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskArg(pub(super) TaskColumn);

impl std::str::FromStr for TaskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, column) = text.split_once(SEPARATOR).unwrap_or((text, text));
        match name.trim().is_empty() || column.is_empty() {
            true => Err(format!("expected a name and a column, such as tone=tone_column, found {text:?}")),
            false => Ok(Self(TaskColumn { name: name.to_owned(), column: column.to_owned() })),
        }
    }
}

impl serde::Serialize for TaskArg {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{SEPARATOR}{}", self.0.name, self.0.column))
    }
}

impl ColumnArgs {
    pub(super) fn problem_type(&self) -> ProblemType {
        if self.multi_label { ProblemType::MultiLabel } else { ProblemType::SingleLabel }
    }

    /// Labels are separated where a row may have several.
    pub(super) fn check_separator(&self, given: &Given) -> Result<(), Error> {
        given.refuse(&["--label-separator"], self.multi_label, "--multi-label with it")
    }

    /// What is like none of a classifier's labels is called by none of them.
    pub(super) fn check_strangers(&self, labels: &[String], expected: &str) -> Result<(), Error> {
        match self.unknown_label.as_ref().filter(|label| labels.contains(label)) {
            Some(label) => Err(Error::setting("--unknown-label", expected, format!("{label}, which it has"))),
            None => Ok(()),
        }
    }

    pub(super) fn has_pairs(&self) -> bool {
        self.text_pair_column.is_some()
    }

    pub(super) fn columns(&self) -> Columns {
        self.columns_of(self.problem_type())
    }

    /// The same for a model that says itself how many labels a row has.
    pub(super) fn columns_of(&self, problem_type: ProblemType) -> Columns {
        Columns {
            text: self.text_column.clone(),
            pair: self.text_pair_column.clone(),
            label: Some(self.label_column.clone()),
            problem_type,
            separator: self.label_separator,
            label_columns: self.label_columns.clone(),
            tasks: Vec::new(),
            unknown_label: self.unknown_label.clone(),
            weight: self.weight_column.clone(),
            on_missing: match self.on_missing {
                OnMissingArg::Error => OnMissing::Error,
                OnMissingArg::Skip => OnMissing::Skip,
                OnMissingArg::Keep => OnMissing::Keep,
            },
            read: self.read.clone(),
        }
    }

    /// What figures count, where rows have weights or shares.
    pub(super) fn counting(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(column) = &self.weight_column {
            lines.push(format!("figures count every row once; {column} is its weight in training and in no figure"));
        }
        if !self.label_columns.is_empty() && !self.multi_label {
            lines.push("figures count a row by the label with its largest share (of equals, the first)".to_owned());
        }
        lines
    }
}

/// The first name that stands there a second time.
pub(super) fn repeated<T: PartialEq>(names: &[T]) -> Option<&T> {
    names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)).map(|(_, name)| name)
}

/// The columns of a data file that has the labels of a bundle.
#[derive(clap::Args)]
pub(super) struct BundleColumnArgs {
    #[command(flatten)]
    pub(super) columns: ColumnArgs,
    /// The column with the labels of a task, of a bundle that has several [default: the task's name]
    #[arg(long = "task", value_name = "NAME[=COLUMN]")]
    pub(super) tasks: Vec<TaskArg>,
}

impl BundleColumnArgs {
    /// Those of a bundle with these tasks, which says itself how many labels a row has.
    pub(super) fn columns_of(&self, tasks: &[Task], given: &Given) -> Result<Columns, Error> {
        self.check(tasks)?;
        let is_multi_label = tasks[0].decision.problem_type == ProblemType::MultiLabel;
        given.refuse(
            &["--multi-label", "--label-separator"],
            is_multi_label,
            "a bundle whose texts may have several labels",
        )?;
        self.columns.check_strangers(&tasks[0].labels, "a label that the bundle does not have")?;
        Ok(Columns { tasks: self.task_columns(tasks)?, ..self.columns.columns_of(tasks[0].decision.problem_type) })
    }

    /// Of a bundle with several tasks each has a column of its own.
    fn check(&self, tasks: &[Task]) -> Result<(), Error> {
        let ColumnArgs { label_column, label_columns, multi_label, .. } = &self.columns;
        let given = [
            ("--label-column", label_column != DEFAULT_LABEL),
            ("--label-columns", !label_columns.is_empty()),
            ("--multi-label", *multi_label),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given && tasks[0].name.is_some()) {
            None => Ok(()),
            Some((setting, _)) => {
                let expected = "--task instead, for a bundle with several tasks".to_owned();
                Err(Error::Setting { setting, expected, got: "it".to_owned() })
            }
        }
    }

    /// The columns of the bundle's tasks: those that were named, else the tasks' names.
    fn task_columns(&self, tasks: &[Task]) -> Result<Vec<TaskColumn>, Error> {
        let names: Vec<&str> = tasks.iter().filter_map(|task| task.name.as_deref()).collect();
        if let Some(other) = self.tasks.iter().find(|task| !names.contains(&task.0.name.as_str())) {
            let expected = match names.as_slice() {
                [] => "a bundle with several tasks".to_owned(),
                names => format!("one of the bundle's tasks {}", names.join(", ")),
            };
            return Err(Error::Setting { setting: "--task", expected, got: other.0.name.clone() });
        }
        let given: Vec<&str> = self.tasks.iter().map(|task| task.0.name.as_str()).collect();
        if let Some(name) = repeated(&given) {
            let (setting, expected) = ("--task", "each task once".to_owned());
            return Err(Error::Setting { setting, expected, got: format!("{name} twice") });
        }
        let column = |name: &str| {
            let named = self.tasks.iter().find(|task| task.0.name == name).map(|task| task.0.clone());
            named.unwrap_or_else(|| TaskColumn { name: name.to_owned(), column: name.to_owned() })
        };
        Ok(names.into_iter().map(column).collect())
    }
}
