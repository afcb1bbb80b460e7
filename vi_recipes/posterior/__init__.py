"""What can be known of a posterior: draws, Gaussian, factors, response, blocks, labels."""
