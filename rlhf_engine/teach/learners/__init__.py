"""What can learn in the live loop, besides PPO and the group learners: from votes themselves."""
