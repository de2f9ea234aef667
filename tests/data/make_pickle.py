"""Writes tiny-bert-pickle/pytorch_model.bin: the weights of tiny-bert as PyTorch saves them.

    python make_pickle.py        (torch and safetensors)
"""

import torch
from safetensors.torch import load_file

torch.save(load_file("tiny-bert/model.safetensors"), "tiny-bert-pickle/pytorch_model.bin")
