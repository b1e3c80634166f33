"""The objective: losses, penalties, their sum over a design, and what can be said about its minimum."""
