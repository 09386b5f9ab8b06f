"""A workspace as an object (`florence.workspace.base`), and what is done with it: a module for each verb."""

from florence.workspace.base import Workspace, bind_workspace, working_store

__all__ = ["Workspace", "bind_workspace", "working_store"]
