# SPDX-License-Identifier: Apache-2.0
"""Episodes of a policy in one compiled loop, and what is read from them."""
