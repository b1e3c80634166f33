"""What every other room stands on: threads, memory, linear algebra, and what scikit-learn keeps private."""
