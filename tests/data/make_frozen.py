"""What an encoder that stays as it is says of texts, and logistic regression on that: tests/data/tiny-bert/frozen.json.

    python make_frozen.py        (torch, transformers and scikit-learn)

Features are what sentence-transformers makes of a mean and a normalization: the mean over the tokens, divided by its length.
"""

import json
import pathlib

import torch
from sklearn.linear_model import LogisticRegression
from transformers import BertModel

FOLDER = pathlib.Path(__file__).parent / "tiny-bert"
STRENGTH = 10.0


def main():
    model = BertModel.from_pretrained(FOLDER, add_pooling_layer=False).eval()
    reference = json.loads((FOLDER / "reference.json").read_text())
    with torch.no_grad():
        means = [model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in reference["input_ids"]]
    features = torch.nn.functional.normalize(torch.stack(means), dim=1)
    x = features.double().numpy()
    labels = [row % 3 for row in range(len(x))]
    # Whether a row has each of two labels.
    several = [[row % 2, int(row % 5 == 0)] for row in range(len(x))]

    def logits(wanted):
        regression = LogisticRegression(C=STRENGTH, tol=1e-10, max_iter=100_000)
        return regression.fit(x, wanted).decision_function(x).tolist()

    columns = [logits([row[label] for row in several]) for label in range(2)]
    content = {
        "strength": STRENGTH,
        "features": features.tolist(),
        "labels": labels,
        "logits": logits(labels),
        "several": several,
        "several_logits": [list(row) for row in zip(*columns)],
    }
    (FOLDER / "frozen.json").write_text(json.dumps(content) + "\n")


main()
