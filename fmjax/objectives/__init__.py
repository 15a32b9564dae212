"""What a model is trained to do: one file an objective, and their names."""

from fmjax.objectives.next_token import NextToken

OBJECTIVES = {"next_token": NextToken}
