"""`client.admin`: the API for administration, each operation a method that is called as in the OpenAPI document."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from parallama.client import gateways, limits, operations, own, usage
from parallama.client.uses import Use

P = ParamSpec("P")
T = TypeVar("T")


class Carry(Protocol):
    """Does what a use of an operation asks for, and gives what it gives."""

    def __call__(self, use: Use[T], /) -> T: ...


class AsyncCarry(Protocol):
    """The same, awaited."""

    def __call__(self, use: Use[T], /) -> Awaitable[T]: ...


class _Waiting(Generic[P, T]):
    def __init__(self, operation: Callable[P, Use[T]]) -> None:
        self._operation = operation

    def __get__(self, admin: Admin, _kind: Any = None) -> Callable[P, T]:
        @functools.wraps(self._operation)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return admin.carry(self._operation(*args, **kwargs))

        return call


class _Awaited(Generic[P, T]):
    def __init__(self, operation: Callable[P, Use[T]]) -> None:
        self._operation = operation

    def __get__(self, admin: AsyncAdmin, _kind: Any = None) -> Callable[P, Awaitable[T]]:
        @functools.wraps(self._operation)
        def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
            return admin.carry(self._operation(*args, **kwargs))

        return call


class Admin:
    """Administration by a client that waits for its answers. Methods raise the errors of `parallama.errors`."""

    def __init__(self, carry: Carry) -> None:
        self.carry = carry

    list_users = _Waiting(operations.list_users)
    create_user = _Waiting(operations.create_user)
    get_user = _Waiting(operations.get_user)
    update_user = _Waiting(operations.update_user)
    delete_user = _Waiting(operations.delete_user)
    list_keys = _Waiting(operations.list_keys)
    create_key = _Waiting(operations.create_key)
    find_key = _Waiting(operations.find_key)
    get_key = _Waiting(operations.get_key)
    update_key = _Waiting(operations.update_key)
    rotate_key = _Waiting(operations.rotate_key)
    revoke_key = _Waiting(operations.revoke_key)
    revoke_keys = _Waiting(operations.revoke_keys)
    delete_key = _Waiting(operations.delete_key)
    list_sessions = _Waiting(operations.list_sessions)
    revoke_session = _Waiting(operations.revoke_session)
    revoke_sessions = _Waiting(operations.revoke_sessions)
    rotate_tokens = _Waiting(operations.rotate_tokens)
    list_assignments = _Waiting(operations.list_assignments)
    assign_role = _Waiting(operations.assign_role)
    get_assignment = _Waiting(operations.get_assignment)
    change_assignment = _Waiting(operations.change_assignment)
    end_assignment = _Waiting(operations.end_assignment)
    list_roles = _Waiting(operations.list_roles)
    create_role = _Waiting(operations.create_role)
    get_role = _Waiting(operations.get_role)
    update_role = _Waiting(operations.update_role)
    delete_role = _Waiting(operations.delete_role)
    list_permissions = _Waiting(operations.list_permissions)
    list_limits = _Waiting(limits.list_limits)
    create_limit = _Waiting(limits.create_limit)
    set_limits = _Waiting(limits.set_limits)
    reset_limits = _Waiting(limits.reset_limits)
    reset_counts = _Waiting(limits.reset_counts)
    limits_of_user = _Waiting(limits.limits_of_user)
    limits_of_key = _Waiting(limits.limits_of_key)
    limits_of_role = _Waiting(limits.limits_of_role)
    get_limit = _Waiting(limits.get_limit)
    update_limit = _Waiting(limits.update_limit)
    delete_limit = _Waiting(limits.delete_limit)
    get_access = _Waiting(operations.get_access)
    update_access = _Waiting(operations.update_access)
    list_audit = _Waiting(operations.list_audit)
    get_usage = _Waiting(usage.get_usage)
    report_usage = _Waiting(usage.report_usage)
    export_usage = _Waiting(usage.export_usage)
    list_gateways = _Waiting(gateways.list_gateways)
    get_gateway = _Waiting(gateways.get_gateway)
    update_gateway = _Waiting(gateways.update_gateway)
    reset_gateway = _Waiting(gateways.reset_gateway)
    gateway_metrics = _Waiting(gateways.gateway_metrics)
    get_me = _Waiting(own.get_me)
    change_password = _Waiting(own.change_password)
    list_my_keys = _Waiting(own.list_my_keys)
    create_my_key = _Waiting(own.create_my_key)
    get_my_key = _Waiting(own.get_my_key)
    update_my_key = _Waiting(own.update_my_key)
    rotate_my_key = _Waiting(own.rotate_my_key)
    revoke_my_key = _Waiting(own.revoke_my_key)
    delete_my_key = _Waiting(own.delete_my_key)
    get_my_usage = _Waiting(usage.get_my_usage)
    report_my_usage = _Waiting(usage.report_my_usage)
    export_my_usage = _Waiting(usage.export_my_usage)


class AsyncAdmin:
    """Administration by a client whose calls are awaited."""

    def __init__(self, carry: AsyncCarry) -> None:
        self.carry = carry

    list_users = _Awaited(operations.list_users)
    create_user = _Awaited(operations.create_user)
    get_user = _Awaited(operations.get_user)
    update_user = _Awaited(operations.update_user)
    delete_user = _Awaited(operations.delete_user)
    list_keys = _Awaited(operations.list_keys)
    create_key = _Awaited(operations.create_key)
    find_key = _Awaited(operations.find_key)
    get_key = _Awaited(operations.get_key)
    update_key = _Awaited(operations.update_key)
    rotate_key = _Awaited(operations.rotate_key)
    revoke_key = _Awaited(operations.revoke_key)
    revoke_keys = _Awaited(operations.revoke_keys)
    delete_key = _Awaited(operations.delete_key)
    list_sessions = _Awaited(operations.list_sessions)
    revoke_session = _Awaited(operations.revoke_session)
    revoke_sessions = _Awaited(operations.revoke_sessions)
    rotate_tokens = _Awaited(operations.rotate_tokens)
    list_assignments = _Awaited(operations.list_assignments)
    assign_role = _Awaited(operations.assign_role)
    get_assignment = _Awaited(operations.get_assignment)
    change_assignment = _Awaited(operations.change_assignment)
    end_assignment = _Awaited(operations.end_assignment)
    list_roles = _Awaited(operations.list_roles)
    create_role = _Awaited(operations.create_role)
    get_role = _Awaited(operations.get_role)
    update_role = _Awaited(operations.update_role)
    delete_role = _Awaited(operations.delete_role)
    list_permissions = _Awaited(operations.list_permissions)
    list_limits = _Awaited(limits.list_limits)
    create_limit = _Awaited(limits.create_limit)
    set_limits = _Awaited(limits.set_limits)
    reset_limits = _Awaited(limits.reset_limits)
    reset_counts = _Awaited(limits.reset_counts)
    limits_of_user = _Awaited(limits.limits_of_user)
    limits_of_key = _Awaited(limits.limits_of_key)
    limits_of_role = _Awaited(limits.limits_of_role)
    get_limit = _Awaited(limits.get_limit)
    update_limit = _Awaited(limits.update_limit)
    delete_limit = _Awaited(limits.delete_limit)
    get_access = _Awaited(operations.get_access)
    update_access = _Awaited(operations.update_access)
    list_audit = _Awaited(operations.list_audit)
    get_usage = _Awaited(usage.get_usage)
    report_usage = _Awaited(usage.report_usage)
    export_usage = _Awaited(usage.export_usage)
    list_gateways = _Awaited(gateways.list_gateways)
    get_gateway = _Awaited(gateways.get_gateway)
    update_gateway = _Awaited(gateways.update_gateway)
    reset_gateway = _Awaited(gateways.reset_gateway)
    gateway_metrics = _Awaited(gateways.gateway_metrics)
    get_me = _Awaited(own.get_me)
    change_password = _Awaited(own.change_password)
    list_my_keys = _Awaited(own.list_my_keys)
    create_my_key = _Awaited(own.create_my_key)
    get_my_key = _Awaited(own.get_my_key)
    update_my_key = _Awaited(own.update_my_key)
    rotate_my_key = _Awaited(own.rotate_my_key)
    revoke_my_key = _Awaited(own.revoke_my_key)
    delete_my_key = _Awaited(own.delete_my_key)
    get_my_usage = _Awaited(usage.get_my_usage)
    report_my_usage = _Awaited(usage.report_my_usage)
    export_my_usage = _Awaited(usage.export_my_usage)
