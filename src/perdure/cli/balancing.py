"""`perdure balance`: check what was asked for, bind the addresses, and balance; or explain."""

import asyncio

from perdure.balance.explain import Rules, explain
from perdure.balance.sources import Source, read_once
from perdure.base.errors import SourceError
from perdure.cli.address import bind
from perdure.cli.balance_options import BalanceOptions, check, policy, targets
from perdure.cli.balance_sources import check_file, source_of
from perdure.cli.failures import Failure
from perdure.cli.tls_files import certificate


def run_balancer(options: BalanceOptions) -> int:
    """Balance until told to stop; returns the exit code. Raises Failure."""
    check(options)
    source = _source(options)
    if options.sources.file is not None:
        check_file(options.sources.file)
    if options.is_haproxy:
        from perdure.cli.balance_haproxy import run_haproxy

        return run_haproxy(source, options)
    if options.tls_cert is not None and options.tls_key is not None:
        certificate(options.tls_cert, options.tls_key)  # what is wrong with it is said once, here
    admin = None if options.admin is None else bind(options.admin, "--admin")
    bound = bind(options.listen)
    if options.with_supervisor:
        from perdure.cli.balance_supervisor import BalanceSupervisor

        return BalanceSupervisor(options, bound, admin).run()
    from perdure.cli.balance_serve import serve

    return serve(options, bound, admin)


def explain_url(options: BalanceOptions, url: str) -> str:
    """Where a balancer with these options would send a request. Raises Failure."""
    check(options)
    source = _source(options)
    rules = Rules(
        policy=policy(options),
        hash_key=options.hash_key,
        by_owner=options.by_owner,
        is_haproxy=options.is_haproxy,
        is_tcp=options.is_tcp,
    )
    try:
        return explain(url, rules, asyncio.run(read_once(source)))
    except SourceError as error:
        raise Failure(str(error)) from error


def _source(options: BalanceOptions) -> Source:
    return source_of(targets(options), options.sources, with_owners=bool(options.by_owner))
