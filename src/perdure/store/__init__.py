"""What is durable. `api` says what a store must do; each adapter does it. Decides no ownership."""
