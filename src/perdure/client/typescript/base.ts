/** JSON knows none of these; all of them are texts. */
/** As in `2026-01-31T12:00:00Z`; microseconds, which a Date would lose, are kept. */
export type IsoDateTime = string;
/** As in `2026-01-31`. */
export type IsoDate = string;
/** As in `12:00:00`. */
export type IsoTime = string;
/** As in `PT1H30M`. */
export type IsoDuration = string;
export type Uuid = string;
/** A decimal number, exact. */
export type DecimalText = string;
export type Base64 = string;

/** Why the server refused or could not do something (RFC 9457). */
export interface ProblemDocument {
  readonly type: string;
  readonly title?: string;
  readonly status: number;
  readonly detail?: string;
  readonly [member: string]: unknown;
}

/**
 * What the server refused or could not do; the classes below tell why.
 *
 * `kind` never changes its meaning, `status` is HTTP's, the message is for people. What has no class
 * of its own here is an ApiError with its kind.
 */
export class ApiError extends Error {
  readonly kind: string;
  readonly status: number;

  constructor(readonly problem: ProblemDocument) {
    super(problem.detail ?? problem.title ?? "");
    this.name = new.target.name;
    this.kind = problem.type.replace(PROBLEM_TYPE, "");
    this.status = problem.status;
  }
}

/** How to reach the server, beside its address. */
export interface ClientOptions {
  /** Sent as `Authorization: Bearer …`. */
  token?: string;
  /** Sent with each request. */
  headers?: Record<string, string>;
  /** The longest a call may take, with all its attempts and the pauses between them. */
  timeoutMs?: number;
  /** How often a call is sent at most. */
  attemptsMax?: number;
  /** Instead of the global one. */
  fetch?: typeof fetch;
}

/** The address of an actor; `Client.at` makes one. */
export abstract class Actor {
  protected abstract readonly _path: string;

  constructor(
    private readonly _transport: Transport,
    private readonly _key: string,
    private readonly _requestId: string | undefined,
  ) {}

  protected async _call(name: string, args: object, isRead = false): Promise<unknown> {
    return await this._transport.call({
      method: "POST",
      path: this._address(name),
      query: {},
      body: JSON.stringify(args),
      idempotencyKey: isRead ? undefined : (this._requestId ?? newKey()),
      isRead,
    });
  }

  protected _watch(name: string, args: object): AsyncGenerator<unknown, void, void> {
    return this._transport.values(this._address(name), { ...args });
  }

  private _address(name: string): string {
    return `${this._path}/${pathText(this._key)}/${name}`;
  }
}

/**
 * How the server is asked.
 *
 * A call of an actor's method that changes something has an idempotency key, and is sent again under
 * the same key while its connection is lost or the server says 502, 503 or 504. So are reads, GET,
 * PUT and DELETE. What a POST or PATCH of a plain function may have done is not sent again.
 */
export abstract class BaseClient {
  private readonly _transport: Transport;

  /** `url` is the server's; without it, that of the page. */
  constructor(url = "", options: ClientOptions = {}) {
    this._transport = new Transport(url, options);
  }

  /**
   * The address of the actor of this class with this key.
   *
   * `requestId` is the idempotency key of the next call, instead of a new one: for a call that this
   * program may have begun before it was started anew.
   */
  at<A extends Actor>(
    actor: new (transport: Transport, key: string, requestId: string | undefined) => A,
    key: string,
    options: { requestId?: string } = {},
  ): A {
    return new actor(this._transport, key, options.requestId);
  }

  protected async _call(
    method: string,
    path: string,
    args: Readonly<Record<string, unknown>>,
  ): Promise<unknown> {
    const inBody = method === "POST" || method === "PUT" || method === "PATCH";
    return await this._transport.call({
      method,
      path,
      query: inBody ? {} : args,
      body: inBody ? JSON.stringify(args) : undefined,
      idempotencyKey: undefined,
      isRead: false,
    });
  }
}
