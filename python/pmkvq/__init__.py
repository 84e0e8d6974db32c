"""pmkvq's Python side: checkpoints and text in and out of the compiler's tools."""
