// What the page asks of the service. Every refusal is a ServiceProblem with the service's own sentence (RFC 9457).

const KEY = "l2d_ray.api_key";

export class ServiceProblem extends Error {
  constructor(detail, status, retryAfterS = null) {
    super(detail);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

export class Api {
  /** `askForKey(reason)` resolves to a key, or to null where none is given. Paths are relative to the page, whatever its prefix. */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.asking = null;
  }

  get hasKey() {
    return sessionStorage.getItem(KEY) !== null;
  }

  status = (signal) => this.request("GET", "v1/status", { signal });

  map = () => this.request("GET", "v1/map");

  findItems = (query, signal) => this.request("GET", `v1/items?${new URLSearchParams({ query, limit: "8" })}`, { signal });

  recommend = (body, signal) => this.request("POST", "v1/recommendations", { body, signal });

  /** Ask for a key, keep it for this tab, and say whether there is one now. Who asks meanwhile shares the answer. */
  renewKey(reason) {
    this.asking ??= this.askForKey(reason)
      .then((key) => {
        if (key) sessionStorage.setItem(KEY, key);
        return Boolean(key);
      })
      .finally(() => {
        this.asking = null;
      });
    return this.asking;
  }

  async request(method, path, { body, signal } = {}) {
    const response = await this.send(method, path, body, signal);
    const content = await response.json().catch(() => null);
    if (response.ok) return content;
    const detail = content?.detail ?? `The service answered ${response.status} ${response.statusText}.`;
    if (response.status === 401 && (await this.renewKey(this.hasKey ? detail : null))) return this.request(method, path, { body, signal });
    throw new ServiceProblem(detail, response.status, Number(response.headers.get("Retry-After")) || null);
  }

  async send(method, path, body, signal) {
    const headers = { Accept: "application/json" };
    if (this.hasKey) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
    if (body) headers["Content-Type"] = "application/json";
    try {
      return await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceProblem("The service cannot be reached; is it running?", 0);
    }
  }
}
