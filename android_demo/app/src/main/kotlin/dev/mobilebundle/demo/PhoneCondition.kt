package dev.mobilebundle.demo

import android.content.BroadcastReceiver
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import dev.mobilebundle.demo.ui.Guarded
import java.io.Closeable

/** What makes answers slower, or may end them: heat (told by Android 10 and later), and a battery that is nearly empty. */
enum class Trouble { HOT, LOW_BATTERY }

/** How the phone is, as far as it matters to who waits for an answer. On the main thread. */
class PhoneCondition(private val context: Context) {
    private val observers = Observers()
    private val power = context.getSystemService(PowerManager::class.java)
    private var isLow = false
    private var isHot = false

    val trouble: Trouble? get() = if (isHot) Trouble.HOT else if (isLow) Trouble.LOW_BATTERY else null

    init {
        val filter = IntentFilter(Intent.ACTION_BATTERY_CHANGED)
        val receiver = object : BroadcastReceiver() {
            override fun onReceive(context: Context, intent: Intent) = look(intent)
        }
        // It is sticky: the last one comes at once.
        context.registerReceiver(receiver, filter)?.let { look(it) }
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) watchHeat()
    }

    fun observe(observer: () -> Unit): Closeable = observers.add(observer)

    private fun look(battery: Intent) {
        val scale = battery.getIntExtra(BatteryManager.EXTRA_SCALE, 0)
        val level = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, scale)
        val plugged = battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0
        become(low = !plugged && scale > 0 && level * PERCENT <= LOW_PERCENT * scale, hot = isHot)
    }

    @Guarded
    private fun watchHeat() = try {
        power.addThermalStatusListener { become(low = isLow, hot = it >= PowerManager.THERMAL_STATUS_SEVERE) }
    } catch (_: RuntimeException) {
        // the phone's service takes no listener: then nothing is known of its heat
    }

    private fun become(low: Boolean, hot: Boolean) {
        if (low == isLow && hot == isHot) return
        isLow = low
        isHot = hot
        observers.tell()
    }

    private companion object {
        const val PERCENT = 100
        const val LOW_PERCENT = 15
    }
}
