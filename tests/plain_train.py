"""train.py without what differs between one process and several by its nature: batch statistics and dropout."""

import sys

import torch
from torch.nn import functional as F

import train


def normalize(self, x):
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


torch.nn.modules.batchnorm._BatchNorm.forward = normalize
torch.nn.Dropout.forward = lambda self, x: x
F_attention = F.scaled_dot_product_attention
F.scaled_dot_product_attention = lambda *args, **kwargs: F_attention(*args, **kwargs | {"dropout_p": 0.0})
train.main(sys.argv[1:])
