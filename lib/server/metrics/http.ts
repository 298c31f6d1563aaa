import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { formatHostPort } from '../../net/address.ts';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';
import type { Reporter } from '../../program/reporter.ts';
import { after } from '../../stream/time.ts';

/** A listener for whoever collects metrics. */
export interface MetricsServer {
  /** The port that it has, also where the system was to choose one. */
  readonly port: number;
  /** Ends it, with all its connections. */
  close(): void;
}

/** The most connections at a time; more are closed at once. One collector has one, or a few. */
const MAX_CONNECTIONS = 8;
/** How long a request may take to come in, in milliseconds. */
const REQUEST_TIMEOUT = 5_000;
/** How long the metrics may take to be collected, in milliseconds. */
const COLLECT_TIMEOUT = 4_000;
/** How long a connection may last in all, in milliseconds. */
const CONNECTION_TIMEOUT = 10_000;
/** The most octets of a request's header. */
const MAX_HEADER = 8_192;

const PATH = '/metrics';
/** The text format of Prometheus. */
const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';
const TEXT_TYPE = 'text/plain; charset=utf-8';

/**
 * Serves metrics by HTTP: GET and HEAD of /metrics. Every connection is good for one request.
 *
 * @param host an address or a name.
 * @param port 0 for one that the system chooses.
 * @param collect gives the text. When it fails, or takes more than 4 seconds, the answer is a 500.
 * @param report is told of what goes wrong later.
 * @throws Failure (111) when it cannot listen there.
 */
export async function serveMetrics(
  host: string,
  port: number,
  collect: () => Promise<string>,
  report?: Pick<Reporter, 'warning'>,
): Promise<MetricsServer> {
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER,
      headersTimeout: REQUEST_TIMEOUT,
      requestTimeout: REQUEST_TIMEOUT,
      // Node looks after these bounds no more often than this; without it, each half minute.
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => {
      answer(request, response, collect).catch((error: unknown) => {
        report?.warning(`unable to give metrics: ${errorCode(error)}`);
        send(response, 500, TEXT_TYPE, 'no metrics\n');
      });
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  // Requests that are sent without waiting for the answer would all be collected for at the same time.
  server.maxRequestsPerSocket = 1;
  server.on('connection', (socket) => {
    // Not a bound on silence: Node extends that while an answer waits for a client that does not take it.
    const limit = setTimeout(() => socket.destroy(), CONNECTION_TIMEOUT);
    socket.on('close', () => clearTimeout(limit));
  });
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
  } catch (error) {
    const where = formatHostPort(host, port);
    throw new Failure(EXIT.systemCallFailed, `unable to listen on ${where} for metrics: ${errorCode(error)}`);
  }
  // A connection that cannot be accepted (EMFILE, say) is no reason to end the mail server.
  server.on('error', (error) => {
    report?.warning(`unable to accept a connection for metrics: ${errorCode(error)}`);
  });
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function answer(
  { method, url }: IncomingMessage,
  response: ServerResponse,
  collect: () => Promise<string>,
): Promise<void> {
  if (url?.replace(/\?.*/s, '') !== PATH) return send(response, 404, TEXT_TYPE, `only ${PATH} is here\n`);
  if (method !== 'GET' && method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return send(response, 405, TEXT_TYPE, `${PATH} can only be read\n`);
  }
  const limit = after(COLLECT_TIMEOUT);
  try {
    const late = limit.passed.then(() => Promise.reject(new Error('collecting took too long')));
    send(response, 200, METRICS_TYPE, await Promise.race([collect(), late]));
  } finally {
    limit.cancel();
  }
}

/** Node itself leaves the text out for HEAD. */
function send(response: ServerResponse, status: number, type: string, text: string): void {
  // Node says by itself that it closes, for want of further requests, and then waits for the client to do so.
  response.setHeader('connection', 'close');
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
