"""The peer: the same decoder and training step in PyTorch on CPU, served to `train_step.py` turn by turn.

Runs in an environment of its own (torch and numpy, nothing of fmjax):
`python torch_gpt.py --shape='{...}' --mode=compile`.
"""

import argparse
import json
import time

import contest
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
  def __init__(self, D, N, T):
    super().__init__()
    self.N = N
    self.norm_attention, self.norm_feedforward = nn.LayerNorm(D), nn.LayerNorm(D)
    self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
    self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

  def forward(self, x_BTD):
    B, T, D = x_BTD.shape
    qkv = self.qkv(self.norm_attention(x_BTD)).split(D, dim=2)
    q, k, v = (part.view(B, T, self.N, D // self.N).transpose(1, 2) for part in qkv)
    o_BNTH = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x_BTD = x_BTD + self.out(o_BNTH.transpose(1, 2).reshape(B, T, D))
    h_BTF = functional.gelu(self.up(self.norm_feedforward(x_BTD)), approximate="tanh")
    return x_BTD + self.down(h_BTF)


class GPT(nn.Module):
  def __init__(self, L, N, D, T, V):
    super().__init__()
    self.tokens, self.positions = nn.Embedding(V, D), nn.Embedding(T, D)
    self.blocks = nn.ModuleList(Block(D, N, T) for _ in range(L))
    self.norm = nn.LayerNorm(D)
    for parameter in self.parameters():
      if parameter.dim() == 2:
        nn.init.normal_(parameter, std=0.02)

  def forward(self, tokens_BT, targets_BT):
    x_BTD = self.tokens(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1]))
    for block in self.blocks:
      x_BTD = block(x_BTD)
    logits = self.norm(x_BTD) @ self.tokens.weight.T
    return functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())


def make_step(shape, mode, adam):
  """A function of (tokens, targets) that makes one update and returns the loss as a float."""
  torch.manual_seed(0)
  model = GPT(shape["L"], shape["N"], shape["D"], shape["T"], shape["V"])
  loss_of = torch.compile(model) if mode == "compile" else model
  groups = [
    {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), **{adam: True})

  def step(tokens_BT, targets_BT):
    loss = loss_of(tokens_BT, targets_BT)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  return step


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--shape", type=json.loads, required=True, help='{"L", "N", "D", "T", "B", "V"}')
  parser.add_argument("--mode", choices=("eager", "compile"), required=True)
  parser.add_argument("--adam", choices=("fused", "foreach"), default="fused")
  parser.add_argument("--threads", type=int, default=2)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  shape = args.shape
  tokens = torch.randint(65, (shape["B"], shape["T"] + 1), generator=torch.Generator().manual_seed(1))
  tokens_BT, targets_BT = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

  start = time.perf_counter()
  step = make_step(shape, args.mode, args.adam)
  losses = [step(tokens_BT, targets_BT) for _ in range(3)]
  ready = {"start_seconds": time.perf_counter() - start, "losses": losses, "version": torch.__version__}
  contest.serve(lambda: step(tokens_BT, targets_BT), ready)


if __name__ == "__main__":
  main()
