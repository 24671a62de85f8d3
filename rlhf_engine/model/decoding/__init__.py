"""What the decoder for a CPU computes with: matrix products of packed weights, and weights read from a model."""
