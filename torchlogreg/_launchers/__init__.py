"""Engines that have rows on many machines, and how a model is fitted where those rows are."""
