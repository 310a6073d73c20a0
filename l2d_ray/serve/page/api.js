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
    this.isDeclined = false; // who closed the dialog is not asked again unasked
  }

  get key() {
    return sessionStorage.getItem(KEY);
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
        this.isDeclined = !key;
        return Boolean(key);
      })
      .finally(() => {
        this.asking = null;
      });
    return this.asking;
  }

  async request(method, path, { body, signal } = {}) {
    const { key } = this;
    const response = await this.send(method, path, body, signal, key);
    const content = await response.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      return null; // a proxy's page, or nothing
    });
    if (response.ok) return content;
    const detail = content?.detail ?? `The service answered ${response.status} ${response.statusText}.`;
    if (response.status === 401 && (await this.hasOtherKey(key, detail))) return this.request(method, path, { body, signal });
    throw new ServiceProblem(detail, response.status, Number(response.headers.get("Retry-After")) || null);
  }

  /** Whether there is another key than the one that was refused, which is asked for where nobody has given one meanwhile. */
  async hasOtherKey(refused, detail) {
    if (this.key !== refused) return true;
    return !this.isDeclined && this.renewKey(refused === null ? null : detail);
  }

  async send(method, path, body, signal, key) {
    const headers = { Accept: "application/json" };
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    try {
      return await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceProblem("The service cannot be reached; is it running?", 0);
    }
  }
}
