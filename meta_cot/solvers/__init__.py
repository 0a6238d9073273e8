# SPDX-License-Identifier: Apache-2.0
"""Ways in which a policy answers questions."""
