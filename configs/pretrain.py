"""At equal size, text and tokens, which task pretrains best: BERT's, RoBERTa's, ALBERT's, T5's, ELECTRA's or GPT's?

  fmjax train --config=configs/pretrain.py:bert --workdir=runs/pretraining/bert      or :roberta, :albert, :t5, ...

Six models of 4.2 million parameters, give or take 2 %: embeddings, layers and norms count; what only the task needs,
its heads and ELECTRA's generator, comes on top. Each reads Python's standard library 1.4 times, 4 million tokens, in
rows of 128, and differs from the others in what TASKS says. Raffel et al. 2020 (arXiv:1910.10683, section 3) compare
tasks so; each task's own paper stands beside it. All six and what they are good for, by one command:
experiments/2026-11-pretraining-tasks, where the losses after training are 3.93 nats for BERT (pairs included), 3.27
for RoBERTa, 4.69 for ALBERT, 4.97 for T5, 3.39 for GPT, and for ELECTRA 3.72 of the generator and 0.269 of the
discriminator. Cost: 4 to 10 minutes each on two cores.
"""

import ml_collections

BASE = dict(
  # 4,080 pieces: with the special tokens of any of the tasks the table has 4,096 rows.
  data=dict(source="stdlib", tokenizer="sentencepiece", vocab_size=4080, sequence_length=128),
  # Learned positions, as most of the papers have, take more text than this to be of use: a masked language model then
  # sees a bag of words (5.9 nats after 1.2 million tokens; with rotary ones 4.9).
  model=dict(D=256, L=4, N=4, positions="rotary", scan_layers=False),
  # An epoch is the whole text once, however a task cuts it into rows: equal epochs are equal tokens.
  optimizer=dict(name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=100, weight_decay=0.01),
  train=dict(epochs=1.4, batch_size=32),
  checkpoint=dict(every=100),
)

ENCODER = dict(kind="encoder", norm_place="post", embedding_norm=True, activation="gelu", init_std=0.02)
MASKED = dict(output_transform=True, output_bias=True)
PAIRS = dict(token_types=2, head="sequence", classes=2, pooler="tanh")

TASKS = {
  # Devlin et al. 2019, arXiv:1810.04805: masked tokens, and whether B is the text that follows A.
  "bert": dict(objective=dict(name="masked_token", pairs="next"), model=dict(**ENCODER, **MASKED, **PAIRS)),
  # Liu et al. 2019, arXiv:1907.11692: masked tokens of full rows, and nothing else.
  "roberta": dict(objective=dict(name="masked_token"), model=dict(**ENCODER, **MASKED)),
  # Lan et al. 2020, arXiv:1909.11942: masked runs of whole words, and whether A and B are in order. One layer's
  # parameters serve all layers, and the table is narrow: what that saves makes the layers wider, and slower.
  "albert": dict(
    objective=dict(name="masked_token", whole_word=True, ngram=3, pairs="order"),
    model=dict(**ENCODER, **MASKED, **PAIRS, shared_layers=True, D=512, N=8, R=224, L=2),
  ),
  # Raffel et al. 2020: spans that are taken out of a text are told. Two layers in each stack, and F such that the
  # decoder's attention to the source is paid for.
  "t5": dict(
    objective=dict(name="span_corruption"),
    model=dict(
      kind="encoder_decoder", L=2, F=768, norm="rms", bias=False, activation="relu", positions="relative",
      output_scale=256**-0.5,
    ),
  ),
  # Clark et al. 2020, arXiv:2003.10555: which tokens has a small masked language model replaced?
  "electra": dict(
    objective=dict(name="replaced_token"),
    model=dict(**ENCODER, token_types=2, head="token", classes=1, pooler="gelu"),
  ),
  # Radford et al. 2018, 2019: the next token. Documents are packed whole, each seen on its own.
  "gpt": dict(objective=dict(name="next_token"), data=dict(packed=True), model=dict(activation="gelu_tanh")),
}  # fmt: skip


def get_config(task="bert"):
  if task not in TASKS:
    raise ValueError(f"there is no task {task!r}: choose from {', '.join(TASKS)}")
  config = ml_collections.ConfigDict(BASE)
  config.update(TASKS[task])
  return config
