"""The tuning constants of this package, with what they were chosen by."""

# Largest sum of weights in a mean: products of the weights with losses then stay within float64, whose range ends at
# 1.8e308. Weights whose sum is larger are divided by the largest of them first.
LARGEST_WEIGHT_SUM = 1e300
