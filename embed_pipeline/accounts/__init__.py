"""Money and limits: what is declared of a provider's account, what a request costs, and the one meter that all processes share."""
