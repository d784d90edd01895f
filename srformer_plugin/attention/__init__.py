"""Segmented recurrent cross-attention: schedule, local softmax, RAF memory."""
