"""What is wrong with vectors that somebody has: findings, pure, and one probe for each place that vectors can be in."""
