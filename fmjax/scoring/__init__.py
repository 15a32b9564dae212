"""What a model makes of a given text: its log-likelihood, its perplexity, its answers to a harness's tasks."""

from fmjax.scoring.likelihood import LanguageModel, language_model, load, loglikelihoods

__all__ = ["LanguageModel", "language_model", "load", "loglikelihoods"]
