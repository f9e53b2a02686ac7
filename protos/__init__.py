"""The contracts: messages, tensor, record and topic formats, and the root of all errors. Standard library, numpy and protobuf only."""
