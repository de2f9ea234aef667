"""Writes a BERT classifier with random weights, for measuring the speed of sizes that no package has.

    python random_model.py BASE OUT CONFIG

OUT becomes a Hugging Face folder: BASE's config.json changed by the JSON object CONFIG, its tokenizer.json, and weights.
"""
import json, shutil, sys

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification


def main(base, out, changes):
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base, **json.loads(changes))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(out)
    shutil.copy(f"{base}/tokenizer.json", out)


if __name__ == "__main__":
    main(*sys.argv[1:])
