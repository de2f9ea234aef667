"""Whether nimbert-train's figures are those of scikit-learn.

    python figures.py PROGRAM

PROGRAM reads JSON lines and answers each with the `Metrics` of its `labels`, `expected` ids and `scores`, given
`problem_type` and `label_thresholds`. A figure that is not defined is null. Any disagreement is an error.
"""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
from sklearn import metrics

CASES = 200
BINS = 15
TOLERANCE = 1e-6
FIGURES = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", "roc_auc", "ece")
LABEL_FIGURES = ("precision", "recall", "f1")


def make_case(random):
    """Rows by label: which labels hold (a matrix of 0 and 1), and the case as PROGRAM reads it."""
    multi = bool(random.random() < 0.5)
    count = 2 if random.random() < 0.4 else int(random.integers(3, 13))
    rows = int(random.integers(1, 5 if random.random() < 0.2 else 61))
    # Some labels have no row; with several labels a row it may be all of them.
    present = random.permutation(count)[: random.integers(0 if multi else 1, count + 1)]
    truth = np.zeros((rows, count), dtype=int)
    if multi:
        truth[:, present] = random.random((rows, len(present))) < random.choice([0.1, 0.5])
    else:
        truth[np.arange(rows), random.choice(present, rows)] = 1
    # Hopeless, by chance, fair and perfect.
    logits = random.normal(size=(rows, count)) + random.choice([-20, 0, 0.7, 20]) * (2 * truth - 1)
    if random.random() < 0.4:
        logits = logits.round()  # Many scores are equal.
    scores = 1 / (1 + np.exp(-logits))
    if not multi:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    scores = scores.astype(np.float32)
    # Thresholds that some scores just reach.
    thresholds = scores[random.integers(rows)].tolist() if multi and random.random() < 0.4 else None
    return truth, {
        "problem_type": f"{'multi' if multi else 'single'}_label_classification",
        "labels": [f"label {id}" for id in range(count)],
        "expected": [np.flatnonzero(row).tolist() for row in truth],
        "scores": scores.tolist(),
        "label_thresholds": thresholds,
    }


def calibration_error(scores, right):
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    members = [bins == index for index in np.unique(bins)]
    return sum(bin.sum() * abs(scores[bin].mean() - right[bin].mean()) for bin in members) / len(scores)


def figures(truth, case):
    """What scikit-learn makes of a case."""
    scores, ids = np.array(case["scores"]), range(len(case["labels"]))
    if case["problem_type"] == "multi_label_classification":
        expected, predicted = truth, (scores >= (case["label_thresholds"] or 0.5)).astype(int)
        confusion = mcc = None
        ece = calibration_error(scores.ravel(), truth.ravel())
    else:
        expected, predicted = truth.argmax(axis=1), scores.argmax(axis=1)
        confusion = metrics.confusion_matrix(expected, predicted, labels=ids).tolist()
        # scikit-learn has 0 where its formula divides by it: all rows expected, or predicted, alike.
        alike = len(set(expected)) == 1 or len(set(predicted)) == 1
        mcc = None if alike else metrics.matthews_corrcoef(expected, predicted)
        ece = calibration_error(scores.max(axis=1), expected == predicted)

    def defined(value):
        return None if np.isnan(value) else float(value)

    def f1(average):
        return defined(metrics.f1_score(expected, predicted, labels=ids, average=average, zero_division=np.nan))

    columns = metrics.precision_recall_fscore_support(expected, predicted, labels=ids, zero_division=np.nan)
    both_kinds = len(ids) == 2 and len(set(truth[:, 1])) == 2
    return {
        "accuracy": metrics.accuracy_score(expected, predicted),
        "macro_f1": f1("macro"),
        "micro_f1": f1("micro"),
        # Without any support scikit-learn falls back to equal weights.
        "weighted_f1": f1("weighted") if truth.any() else None,
        "mcc": mcc,
        "roc_auc": metrics.roc_auc_score(truth[:, 1], scores[:, 1]) if both_kinds else None,
        "ece": ece,
        "rows": len(truth),
        "labels": [
            {"label": label, "support": int(support)} | dict(zip(LABEL_FIGURES, map(defined, values)))
            for label, *values, support in zip(case["labels"], *columns)
        ],
        "confusion": confusion,
    }


def main():
    (program,) = sys.argv[1:]
    random = np.random.default_rng(0)
    cases = [make_case(random) for _ in range(CASES)]
    lines = "".join(json.dumps(case) + "\n" for _, case in cases)
    run = subprocess.run([program], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == CASES, len(answers)
    defined, undefined, largest = Counter(), Counter(), 0.0

    def compare(name, ours, theirs, case):
        nonlocal largest
        assert (ours is None) == (theirs is None), (name, ours, theirs, case)
        if ours is not None:
            largest = max(largest, abs(ours - theirs))
            assert abs(ours - theirs) <= TOLERANCE, (name, ours, theirs, case)
            defined[name] += 1
        else:
            undefined[name] += 1

    for (truth, case), ours in zip(cases, answers):
        theirs = figures(truth, case)
        assert ours.keys() == theirs.keys(), ours.keys()
        single = case["problem_type"] == "single_label_classification"
        for name in FIGURES:
            # Figures that such a case never has do not count as undefined.
            if name == "mcc" and not single or name == "roc_auc" and len(case["labels"]) != 2:
                assert ours[name] is None, (name, ours[name], case)
            else:
                compare(name, ours[name], theirs[name], case)
        for name in ("rows", "confusion"):
            assert ours[name] == theirs[name], (name, ours[name], theirs[name], case)
        assert len(ours["labels"]) == len(theirs["labels"]), case
        for our_label, their_label in zip(ours["labels"], theirs["labels"]):
            assert our_label.keys() == their_label.keys(), our_label
            for name in ("label", "support"):
                assert our_label[name] == their_label[name], (name, our_label, their_label, case)
            for name in LABEL_FIGURES:
                compare(name, our_label[name], their_label[name], case)
    names = FIGURES + LABEL_FIGURES
    assert all(defined[name] for name in names), defined
    assert all(undefined[name] for name in names if name not in ("accuracy", "ece")), undefined
    counts = ", ".join(f"{name} {defined[name]} ({undefined[name]})" for name in names)
    print(f"scikit-learn: {CASES} cases within {largest:.1e}; figures defined (and undefined): {counts}")


if __name__ == "__main__":
    main()
