"""The private descriptor pool of everstill's generated messages.

tritonclient and KServe ship their own copy of the Open Inference Protocol; two copies of one symbol clash in protobuf's
default pool. Generated modules register here instead (see protos/generate.py).
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
