"""What a model is trained to do: one file an objective, and their names."""

from fmjax.objectives.classification import Classification, Regression
from fmjax.objectives.contrastive import Contrastive
from fmjax.objectives.denoisers import Denoisers
from fmjax.objectives.instruction import Instruction
from fmjax.objectives.masked_token import MaskedToken
from fmjax.objectives.multiple_choice import MultipleChoice
from fmjax.objectives.next_token import NextToken
from fmjax.objectives.prefix_lm import PrefixLM
from fmjax.objectives.question_answering import QuestionAnswering
from fmjax.objectives.replaced_token import ReplacedToken
from fmjax.objectives.seq2seq import SequenceToSequence
from fmjax.objectives.similarity import Similarity
from fmjax.objectives.span_corruption import SpanCorruption
from fmjax.objectives.tagging import Tagging

OBJECTIVES = {
  "next_token": NextToken,
  "masked_token": MaskedToken,
  "replaced_token": ReplacedToken,
  "prefix_lm": PrefixLM,
  "seq2seq": SequenceToSequence,
  "span_corruption": SpanCorruption,
  "ul2": Denoisers,
  "contrastive": Contrastive,
  "classification": Classification,
  "regression": Regression,
  "tagging": Tagging,
  "question_answering": QuestionAnswering,
  "multiple_choice": MultipleChoice,
  "similarity": Similarity,
  "instruction": Instruction,
}
