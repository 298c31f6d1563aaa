/** The opening, by transcripts. */

import { replayOpening } from '../support/replay.ts';
import { testTranscripts } from '../support/run-transcripts.ts';

testTranscripts(new URL('./', import.meta.url), replayOpening);
