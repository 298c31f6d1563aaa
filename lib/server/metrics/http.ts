import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { formatHostPort } from '../../net/host-port.ts';
import { explain } from '../../program/explain.ts';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';
import type { Reporter } from '../../program/reporter.ts';
import { within } from '../../stream/time.ts';

/** An HTTP server for metrics. */
export interface MetricsServer {
  /** The port that it listens on, also where the kernel chose one. */
  readonly port: number;
  /** Closes it and all its connections. */
  close(): void;
}

/** The maximum of concurrent connections; more are closed at once. A collector has one, or a few. */
const MAX_CONNECTIONS = 8;
/** How long a request may take to arrive, in milliseconds. */
const REQUEST_TIMEOUT = 5_000;
/** How long collecting the metrics may take, in milliseconds. */
const COLLECT_TIMEOUT = 4_000;
/** How long a connection may last in all, in milliseconds. */
const CONNECTION_TIMEOUT = 10_000;
/** The maximum size of a request's header, in octets. */
const MAX_HEADER_SIZE = 8_192;

const PATH = '/metrics';
/** The text format of Prometheus. */
const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';
const TEXT_TYPE = 'text/plain; charset=utf-8';

/**
 * Serves metrics over HTTP: GET and HEAD of /metrics, one request per connection.
 *
 * @param host an address or a name.
 * @param port 0 for one that the kernel chooses.
 * @param collect gives the response body. If it rejects, or takes more than 4 seconds, the response is a 500.
 * @param report receives a warning for each later failure.
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
      maxHeaderSize: MAX_HEADER_SIZE,
      headersTimeout: REQUEST_TIMEOUT,
      requestTimeout: REQUEST_TIMEOUT,
      // How often Node checks these timeouts; by default, every 30 seconds.
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => {
      answer(request, response, collect).catch((error: unknown) => {
        report?.warning(`unable to collect metrics: ${errorCode(error)}`);
        send(response, 500, TEXT_TYPE, 'unable to collect metrics\n');
      });
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  // Otherwise pipelined requests would each collect metrics at the same time.
  server.maxRequestsPerSocket = 1;
  server.on('connection', (socket) => {
    // Not an idle timeout: Node extends that while a response waits for a client that does not read it.
    const timer = setTimeout(() => socket.destroy(), CONNECTION_TIMEOUT);
    socket.on('close', () => clearTimeout(timer));
  });
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
  } catch (error) {
    const where = formatHostPort(host, port);
    throw new Failure(
      EXIT.systemCallFailed,
      `unable to listen on ${where} for metrics: ${explain('listen', error)}`,
    );
  }
  // A connection that cannot be accepted (EMFILE, for example) must not end the mail server.
  server.on('error', (error) => {
    report?.warning(`unable to accept a connection for metrics: ${explain('listen', error)}`);
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
  if (url?.replace(/\?.*/s, '') !== PATH)
    return send(response, 404, TEXT_TYPE, `not found: only ${PATH} is served\n`);
  if (method !== 'GET' && method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return send(response, 405, TEXT_TYPE, `${PATH} allows only GET and HEAD\n`);
  }
  const metrics = await within(COLLECT_TIMEOUT, collect());
  if (metrics === undefined) throw new Error('collection timed out');
  send(response, 200, METRICS_TYPE, metrics);
}

/** Sends a response and closes the connection. Node omits the body for HEAD. */
function send(response: ServerResponse, status: number, type: string, text: string): void {
  // With maxRequestsPerSocket alone, Node announces the close and then waits for the client to close.
  response.setHeader('connection', 'close');
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
