"""Fine-tuning: the loss on the right tokens, packed batches, DeepSpeed's settings, and Ray Train's loop."""
