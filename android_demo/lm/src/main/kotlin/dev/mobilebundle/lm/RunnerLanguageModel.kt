package dev.mobilebundle.lm

import android.content.Context
import android.os.Handler
import android.os.Looper
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.util.concurrent.Executor
import kotlin.concurrent.thread

/**
 * [LanguageModel] by `mobile-run serve` as a child process.
 *
 * [looper]: of the thread that everything is called on and told on. Files are read on threads of its own. [owner]: named to
 * others that want a model meanwhile.
 */
class RunnerLanguageModel @JvmOverloads constructor(
    context: Context,
    private val looper: Looper = Looper.getMainLooper(),
    private val owner: String = "chat",
) : LanguageModel {
    private inner class Answer(val request: GenerationRequest, val listener: GenerationListener) : Generation {
        var tokens = 0
        var isCancelled = false
            private set
        override var isFinished = false
            private set

        override fun cancel() {
            looper.checkMine()
            if (isCancelled || isFinished) return
            isCancelled = true
            if (this === answer && loaded != null) process?.send { CANCEL }
        }

        fun tell(event: GenerationEvent) {
            isFinished = event is GenerationEvent.Finished || event is GenerationEvent.Failed
            listener.onEvent(event)
        }
    }

    private val app = context.applicationContext
    private val main = Handler(looper).let { handler -> Executor { handler.post(it) } }
    private val observers = ArrayList<StateObserver>()
    private var bundle: File? = null
    private var options = LoadOptions()
    private var process: RunnerProcess? = null
    private var loaded: LoadedModel? = null

    /** What is being answered, or waits for the process to be ready. */
    private var answer: Answer? = null

    /** What was asked while an answer that is cancelled had not ended yet; all but the last of them are cancelled, too. */
    private val waiting = ArrayDeque<Answer>()

    /** Identifies an attempt to open the bundle, from the look at its manifest to the end of the process; null: none. */
    private var attempt: Any? = null

    override var state: ModelState = ModelState.Closed
        private set(value) {
            if (field == value) return
            field = value
            for (observer in observers.toList()) observer.onState(value)
        }

    override fun observe(observer: StateObserver): Closeable {
        looper.checkMine()
        observers += observer
        observer.onState(state)
        return Closeable { observers -= observer }
    }

    override fun load(bundle: File, options: LoadOptions) {
        looper.checkMine()
        endProcess(ModelError.WasReleased(ReleaseReason.NOT_NEEDED))
        this.bundle = bundle
        this.options = options
        start()
    }

    override fun generate(request: GenerationRequest, listener: GenerationListener): Generation {
        looper.checkMine()
        val asked = Answer(request, listener)
        val before = waiting.lastOrNull() ?: answer
        if (before != null) {
            if (before.isCancelled) waiting += asked else asked.tell(GenerationEvent.Failed(ModelError.StillAnswering()))
            return asked
        }
        answer = asked
        val model = loaded
        when {
            model != null -> ask(model)
            attempt == null -> start()
        }
        return asked
    }

    override fun release(reason: ReleaseReason) {
        looper.checkMine()
        if (attempt == null) return
        state = ModelState.Released(reason)
        endProcess(ModelError.WasReleased(reason))
    }

    override fun close() {
        looper.checkMine()
        bundle = null
        state = ModelState.Closed
        endProcess(ModelError.WasReleased(ReleaseReason.NOT_NEEDED))
    }

    private fun start() {
        val directory = bundle ?: return fail(ModelError.NotOpen())
        ModelOwner.take(this, owner)?.let { return fail(ModelError.Busy(it)) }
        val mine = Any()
        attempt = mine
        state = ModelState.Loading(null)
        val context = options.context
        thread(name = "open-bundle", isDaemon = true) {
            val refusal = refusal(directory, context)
            main.execute {
                if (attempt === mine) refusal?.let { fail(it) } ?: startProcess(directory)
            }
        }
    }

    private fun startProcess(directory: File) {
        val arguments = buildList {
            add("serve")
            add(directory.path)
            options.context?.let { addAll(listOf("--context", "$it")) }
            options.threads?.let { addAll(listOf("--threads", "$it")) }
        }
        lateinit var started: RunnerProcess
        started = RunnerProcess(runnerProgram(app), arguments, main, object : RunnerProcess.Listener {
            // Events of a process that was ended are still on their way when the next one runs: they mean nothing.
            override fun onEvent(event: RunnerEvent) {
                if (started === process) take(event)
            }

            override fun onExit(error: ModelError?) {
                if (started === process) fail(error ?: ModelError.RunnerDied(0, ""))
            }
        })
        process = started
        started.start()
    }

    /** Why the bundle must not be opened; null if nothing is known against it. Reads its manifest. */
    private fun refusal(directory: File, context: Int?): ModelError? {
        val manifest = try {
            BundleManifest.read(directory)
        } catch (e: IOException) {
            return ModelError.BundleUnreadable(e.message ?: directory.path)
        }
        val fit = MemoryFit.of(manifest, deviceMemory(app), context)
        return if (fit.verdict == MemoryFit.Verdict.TOO_LARGE) ModelError.DoesNotFit(fit) else null
    }

    private fun ask(model: LoadedModel) {
        val asked = answer ?: return
        state = ModelState.Generating(model)
        process?.send { asked.request.toJson().toString() }
        if (asked.isCancelled) process?.send { CANCEL }
    }

    private fun take(event: RunnerEvent) {
        when (event) {
            is RunnerEvent.Install -> state = ModelState.Loading(event.doneBytes.toFloat() / event.totalBytes)
            is RunnerEvent.Load -> {
                loaded = event.model
                state = ModelState.Ready(event.model)
                ask(event.model)
            }
            is RunnerEvent.Reading -> answer?.tell(event.progress)
            is RunnerEvent.Prompt -> answer?.tell(event.started)
            is RunnerEvent.Token -> answer?.let {
                if (!event.isRest) it.tokens++
                if (event.text.isNotEmpty()) it.tell(GenerationEvent.Text(event.text, it.tokens))
            }
            is RunnerEvent.Done -> finish(GenerationEvent.Finished(event.stats))
            is RunnerEvent.Error -> if (loaded == null) fail(event.error) else finish(GenerationEvent.Failed(event.error))
            is RunnerEvent.Other -> Unit
        }
    }

    private fun finish(event: GenerationEvent) {
        loaded?.let { state = ModelState.Ready(it) }
        val finished = answer
        answer = waiting.removeFirstOrNull()
        loaded?.let { ask(it) }
        finished?.tell(event)
    }

    private fun fail(error: ModelError) {
        state = ModelState.Failed(error)
        endProcess(error)
    }

    /** Ends the process, and with [error] the answer that it was giving. */
    private fun endProcess(error: ModelError) {
        process?.kill()
        process = null
        attempt = null
        loaded = null
        ModelOwner.give(this)
        val lost = listOfNotNull(answer) + waiting
        answer = null
        waiting.clear()
        for (one in lost) one.tell(GenerationEvent.Failed(error))
    }

    private companion object {
        /** Stops what was asked before it, and only that: a request that is not sent yet is cancelled when it is. */
        const val CANCEL = "cancel"
    }
}
