"""Writes a classifier with random weights, for measuring the speed of sizes that no package has.

    python random_model.py BASE OUT CONFIG

OUT becomes a Hugging Face folder: BASE's config.json changed by the JSON object CONFIG, or CONFIG alone where it has a
model_type; BASE's tokenizer.json, and weights.
"""
import json, shutil, sys

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification


def main(base, out, changes):
    torch.manual_seed(0)
    changes = json.loads(changes)
    kind = changes.pop("model_type", None)
    config = AutoConfig.for_model(kind, **changes) if kind else AutoConfig.from_pretrained(base, **changes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(out)
    shutil.copy(f"{base}/tokenizer.json", out)


if __name__ == "__main__":
    main(*sys.argv[1:])
