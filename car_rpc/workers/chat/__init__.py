"""From a conversation to a prompt: messages, template and protection against injection."""
