import type { Reporter } from '../program/reporter.ts';
import type { TlsOffer } from '../session/session.ts';
import type { ByteStream, Source } from '../stream/byte-stream.ts';
import { closeDescriptors, openDescriptors, openSink, openSource } from '../stream/descriptor.ts';
import { watchIdle } from '../stream/time.ts';
import {
  ANSWER_LIMIT,
  type Answer,
  describeTls,
  parseAnswer,
  START_TLS_AND_DESCRIBE,
  tlsEnvironment,
} from '../ucspi/control.ts';
import { isSslserver, remoteAddress, type UcspiTls } from '../ucspi/environment.ts';

/** What is needed to obtain TLS from the UCSPI-TLS server above. */
export interface ChainTls {
  readonly descriptors: UcspiTls;
  /** The connection to the client in cleartext. */
  readonly client: ByteStream;
  /** The environment of this process, which shows what kind of server is above. */
  readonly environment: NodeJS.ProcessEnv;
  /** How long the handshake and the answer may take together, in milliseconds. */
  readonly answerTimeout: number;
  readonly report: Reporter;
}

/** Makes the TLS offer of a program in a chain: another process does TLS when this one requests it. */
export function createChainTlsOffer(chain: ChainTls): TlsOffer {
  const { descriptors, client, environment, report } = chain;
  const keepsControl = isSslserver(environment);

  return {
    decline: () => {
      if (!keepsControl) closeDescriptors([descriptors.control, descriptors.read, descriptors.write]);
    },
    start: async (abort) => {
      const control = openDescriptors(descriptors.control, descriptors.control);
      control.sink.write(Buffer.from(START_TLS_AND_DESCRIBE));
      const { variables, rest } = await readAnswer(control.source, chain.answerTimeout, abort);
      report.info(`TLS with ${remoteAddress(environment)}: ${describeTls(variables)}`);
      client.source.close();
      client.sink.close();
      return {
        ...takeTls(control),
        early: descriptors.read === descriptors.control ? rest : Buffer.alloc(0),
        environment: tlsEnvironment(variables),
      };
    },
  };

  /** Opens the descriptors of the TLS session. The control socket may be one or both of them. */
  function takeTls(control: ByteStream): ByteStream {
    const { read, write } = descriptors;
    if (read === descriptors.control && write === descriptors.control) return control;
    if (read === descriptors.control) return { source: control.source, sink: openSink(write) };
    if (write === descriptors.control) return { source: openSource(read), sink: control.sink };
    if (!keepsControl) {
      control.source.close();
      control.sink.close();
    }
    return openDescriptors(read, write);
  }
}

/**
 * Reads the answer to `Y`, and nothing after the read that completes it.
 *
 * @param answerTimeout how long it may take until the answer is complete, in milliseconds.
 * @throws Error with the reason when there is no complete answer; the source is closed then.
 */
function readAnswer(source: Source, answerTimeout: number, abort: Promise<void>): Promise<Answer> {
  let received = Buffer.alloc(0);
  let settled = false;
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      // Aborted after the answer: by now the source may be that of the TLS session.
      if (settled) return;
      settled = true;
      watch.stop();
      source.close();
      reject(new Error(why));
    };
    const watch = watchIdle(answerTimeout, () => fail('the TLS server did not answer in time'));
    void abort.then(() => fail('shutting down'));
    source.listen({
      bytes: (bytes) => {
        received = Buffer.concat([received, bytes]);
        const answer = parseAnswer(received);
        if (answer !== undefined) {
          settled = true;
          watch.stop();
          source.pause();
          resolve(answer);
        } else if (received.length > ANSWER_LIMIT) fail('the answer from the TLS server is too long');
      },
      ended: () => fail('the TLS server reports a failed handshake'),
    });
    source.read();
  });
}
