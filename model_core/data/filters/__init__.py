"""Filters: which samples of a data set are dropped, and why."""

from model_core.data.filters.folder import filter_folder
from model_core.data.filters.rules import FilterReason, Filters, Rules

__all__ = ["FilterReason", "Filters", "Rules", "filter_folder"]
