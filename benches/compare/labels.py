"""How far cleanlab believes the labels of a table, by logistic regression on sentence-transformers' features.

labels.py BASE DATA.csv MAX_LENGTH: one JSON object with a score for each row and the seconds that all but loading took. It is what
cleanlab's own guide to text does: five folds, scikit-learn's regression, and the probability of the given label.
"""

import json
import sys
import time

import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from few import body, read


def main(base, data, max_length):
    texts, labels = read(data)
    encoder = body(base, int(max_length))
    began = time.perf_counter()
    features = encoder.encode(texts, show_progress_bar=False)
    names = sorted(set(labels))
    ids = np.array([names.index(label) for label in labels])
    model = LogisticRegression(max_iter=1000)
    probabilities = cross_val_predict(model, features, ids, cv=5, method="predict_proba")
    scores = get_label_quality_scores(ids, probabilities)
    print(json.dumps({"scores": scores.tolist(), "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
